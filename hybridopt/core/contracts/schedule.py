"""What a schedule of densities is asked for."""

from abc import abstractmethod
from typing import Protocol

__all__ = ["Schedule"]


class Schedule(Protocol):
    """A density that changes over the run. Plain functions of the step will do, but cannot be saved by name."""

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Return the density at this optimizer step, in [0, 1]."""
