"""What probes have found for the next step of an optimizer."""

import math
from dataclasses import dataclass

__all__ = ["Measured"]


@dataclass
class Measured:
    """Plain numbers, written by the probes and read by the updates, which need not know each other.

    Args:
        wanted: does any parameter take its gradient from probes?
        pending: has anything been measured since the last step?
        failed: was a loss not finite, so that the step is to be left out?
        slopes: change of the loss along each direction for a shift by eps z, as float32 numbers; None before any
            probe and where one has failed.
    """

    wanted: bool = False
    pending: bool = False
    failed: bool = False
    slopes: tuple[float, ...] | None = None

    @property
    def skipping(self) -> bool:
        """Whether the step is to be left out, as something that was measured is not finite."""
        return self.pending and (self.failed or self.slopes is None or not all(map(math.isfinite, self.slopes)))

    def clear(self) -> None:
        """Forget everything: it is used up, or out of date."""
        self.pending, self.failed, self.slopes = False, False, None
