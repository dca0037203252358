"""Density in stairs."""

from bisect import bisect_right
from dataclasses import dataclass

from ...core.contracts import Schedule
from ...core.errors import HybridOptError, check_count, check_number

__all__ = ["Steps"]


@dataclass(frozen=True)
class Steps(Schedule):
    """`values[i]` from the optimizer step `boundaries[i - 1]` on; one value more than boundaries."""

    values: tuple[float, ...] = (0.5, 0.25)
    boundaries: tuple[int, ...] = (1000,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        for i, value in enumerate(self.values):
            check_number("Steps", f"values[{i}]", value, 0, 1)
        for i, step in enumerate(self.boundaries):
            check_count("Steps", f"boundaries[{i}]", step, 1)
        if len(self.values) != len(self.boundaries) + 1 or list(self.boundaries) != sorted(set(self.boundaries)):
            raise HybridOptError(f"give rising boundaries and one value more than boundaries; got {self}", "Steps")

    def __call__(self, step: int) -> float:
        """Return the density at this optimizer step."""
        return self.values[bisect_right(self.boundaries, step)]
