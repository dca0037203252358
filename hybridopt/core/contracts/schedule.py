"""What schedules are asked for: of densities, and of the lengths of windows."""

from abc import abstractmethod
from typing import Protocol

__all__ = ["GapSchedule", "Schedule"]


class Schedule(Protocol):
    """A density that changes over the run. Plain functions of the step will do, but cannot be saved by name."""

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Return the density at this optimizer step, in [0, 1]."""


class GapSchedule(Protocol):
    """How long a window of the split is, by the loss; a frozen dataclass. The first has `update_gap` steps."""

    @abstractmethod
    def __call__(self, gap: int, before: float | None, loss: float) -> int:
        """Return the steps of the next window, at least 1.

        Args:
            gap: steps of the window that has ended.
            before: mean loss of the window before it; None if that is the first, or its losses were not finite.
            loss: mean loss of the window that has ended, finite.
        """
