"""What every split with a density and a window checks and does first."""

from ...core.contracts import Density, Draw, Shape
from ...core.errors import HybridOptError, check_count, check_share
from .empty import Empty
from .whole import Whole

__all__ = ["check", "check_spread", "limit", "matrix"]


def check(owner: str, density: Density, update_gap: int) -> None:
    """Raise HybridOptError for options that make no sense.

    Args:
        owner: the split, for errors.
        density: a number in [0, 1], or a schedule.
        update_gap: a whole number of at least 1, and no more than any run has steps.
    """
    if not callable(density):
        check_share(owner, "density", density)
    check_count(owner, "update_gap", update_gap, 1, 2**31)


def check_spread(owner: str, spread: object) -> None:
    """Raise HybridOptError unless `spread` of the split that `owner` names is True or False."""
    if not isinstance(spread, bool):
        raise HybridOptError(f"spread={spread!r} is not allowed; give True or False", owner)


def limit(density: Density, draw: Draw) -> tuple[float, Whole | Empty | None]:
    """Return the density in the window of `draw`, and the part to use where that is 0 or 1."""
    value = draw.density(density)
    return value, Empty() if value == 0 else Whole() if value == 1 else None


def matrix(owner: str, draw: Draw, shape: Shape) -> tuple[int, int]:
    """Return the last two sizes; HybridOptError, naming the parameter, if it has fewer.

    Args:
        owner: the split's name.
        draw: of the parameter.
        shape: of the parameter.
    """
    if len(shape) < 2:
        raise HybridOptError(
            f"split={owner!r} needs matrices; parameter {draw.name!r} has shape {shape}. "
            "Keep it state-full or state-free, or use columns, rows, randk or block"
        )
    return shape[-2], shape[-1]
