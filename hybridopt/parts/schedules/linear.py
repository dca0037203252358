"""Density that falls or rises in a straight line."""

from dataclasses import dataclass

from ...core.contracts import Schedule
from ...core.errors import check_count, check_number

__all__ = ["Linear"]


@dataclass(frozen=True)
class Linear(Schedule):
    """From `start` to `end` over `steps` optimizer steps, then constant (AdaFRUGAL: 0.25 to 0.05)."""

    start: float = 0.25
    end: float = 0.05
    steps: int = 1000

    def __post_init__(self) -> None:
        check_number("Linear", "start", self.start, 0, 1)
        check_number("Linear", "end", self.end, 0, 1)
        check_count("Linear", "steps", self.steps, 1)

    def __call__(self, step: int) -> float:
        """Return the density at this optimizer step."""
        return self.start + (self.end - self.start) * min(1.0, step / self.steps)
