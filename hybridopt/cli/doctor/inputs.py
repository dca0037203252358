"""Numbers for the self-test: the same bits on every machine, without a file."""

import math

from torch import Tensor

from ...core.contracts import Shape, stream
from ...core.numerics.directions import Direction, values
from .machine import CPU

__all__ = ["noise"]


def noise(name: str, shape: Shape, step: int = 0) -> Tensor:
    """Return normal numbers that depend on name and step alone: float32, on the CPU.

    Args:
        name: of what they are for.
        shape: of the tensor.
        step: of a training.
    """
    return values(Direction(stream("doctor", name), step, 0, "gaussian"), 0, math.prod(shape), CPU).view(shape)
