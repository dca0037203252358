"""Normal numbers from a counter hash: a pure function of (key, turn, position), so that no projection need be kept."""

import math

from torch import Tensor

from ..contracts import Shape
from .splitmix import bits

__all__ = ["normal"]


def normal(shape: Shape, key: float | Tensor, turn: float | Tensor, like: Tensor) -> Tensor:
    """Return independent N(0, 1) numbers: [*shape], or [n, *shape] of n keys.

    The 24 uniform bits are the same on every device; Box & Muller (1958) makes them normal, within 5.8 standard
    deviations.

    Args:
        shape: of one draw.
        key: 63 bits, or an int64 tensor of shape [] or [n].
        turn: which draw, from 0; whole.
        like: tensor whose dtype and device the numbers get.
    """
    drawn = bits(shape, key, turn, like.device)
    size, angle = ((drawn >> shift & 0xFFFFFF).to(like.dtype) for shift in (40, 16))
    return size.add_(1).mul_(2**-24).log_().mul_(-2).sqrt_().mul_(angle.mul_(2 * math.pi * 2**-24).cos_())
