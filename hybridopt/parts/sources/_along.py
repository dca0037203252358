"""What sources along random directions share: the direction of every element, and the gradient by the slopes."""

from collections.abc import Sequence

from ...core.contracts import Draw, stream
from ...core.numerics.directions import Direction

__all__ = ["elementwise", "over"]


def elementwise(draw: Draw, index: int, kind: str = "rademacher") -> Direction:
    """Return a direction of a parameter in a step, in which every element has its own number.

    Args:
        draw: of the parameter and the step.
        index: which direction of the step, from 0.
        kind: "rademacher" or "gaussian".
    """
    return Direction(stream(draw.seed, draw.name, "z"), draw.step, index, kind)


def over(slopes: Sequence[float], eps: float) -> tuple[float, ...]:
    """Return the projected gradients slope / eps, over their number: what the gradient has of each direction."""
    return tuple(slope / (eps * len(slopes)) for slope in slopes)
