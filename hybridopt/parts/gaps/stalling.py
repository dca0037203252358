"""Windows that grow while the loss stalls."""

from dataclasses import dataclass

from ...core.contracts import GapSchedule
from ...core.errors import HybridOptError, check_count, check_number

__all__ = ["Stalling"]


@dataclass(frozen=True)
class Stalling(GapSchedule):
    """Windows `factor` times as long, up to `longest` steps, while the loss stalls (AdaFRUGAL 2026: 100 to 1000).

    It stalls if the mean loss of a window differs from that of the window before by less than `threshold` of it.
    """

    longest: int = 1000
    factor: float = 1.5
    threshold: float = 0.005

    def __post_init__(self) -> None:
        check_count("Stalling", "longest", self.longest, 1, 2**31)
        check_number("Stalling", "factor", self.factor, 1, 1e6)
        check_number("Stalling", "threshold", self.threshold, 0, 1)
        if self.factor == 1:
            raise HybridOptError(
                "factor=1 would never change a window; give a number above 1, such as 1.5", "Stalling"
            )

    def __call__(self, gap: int, before: float | None, loss: float) -> int:
        """Return the steps of the next window: `gap`, or more if the loss has stalled.

        Args:
            gap: steps of the window that has ended.
            before: mean loss of the window before it; None for the first.
            loss: mean loss of the window that has ended.
        """
        if before is None or abs(before - loss) >= self.threshold * abs(before):
            return gap
        return max(gap, min(self.longest, max(gap + 1, round(gap * self.factor))))
