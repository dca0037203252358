"""The gradient of the backward pass."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...core.contracts import Draw, Shape, Source, State

__all__ = ["Backprop"]


@dataclass(frozen=True)
class Backprop(Source):
    """First-order: what `loss.backward()` leaves in `.grad`."""

    backward = True
    share = 1.0

    def noise(self, draw: Draw, shape: Shape, index: int, basis: State) -> None:
        """Return None: there are no directions.

        Args:
            draw: not read.
            shape: not read.
            index: not read.
            basis: empty.
        """
        return None

    def weights(self, slopes: Sequence[float]) -> tuple[float, ...]:
        """Return nothing: there are no directions."""
        return ()
