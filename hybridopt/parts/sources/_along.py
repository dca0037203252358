"""What sources along random directions share: the direction of every element, and the gradient by the slopes."""

from collections.abc import Sequence

from ...core.contracts import Draw, stream
from ...core.numerics.directions import Direction

__all__ = ["elementwise", "over"]


def elementwise(draw: Draw, index: int, kind: str = "rademacher") -> Direction:
    """Direction `index` of this parameter in this step."""
    return Direction(stream(draw.seed, draw.name, "z"), draw.step, index, kind)


def over(slopes: Sequence[float], eps: float) -> tuple[float, ...]:
    """Projected gradients, over their number: what the gradient has of each direction."""
    return tuple(slope / (eps * len(slopes)) for slope in slopes)
