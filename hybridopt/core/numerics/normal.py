"""Normal numbers from a counter hash: a pure function of (key, turn, position), so that no projection need be kept."""

import math

import torch
from torch import Tensor

from ..contracts import Shape

__all__ = ["normal"]

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as int64, which wraps around


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
    position = torch.arange(math.prod(shape), device=like.device).view(shape)
    bits = _mixed(position * GOLDEN + _start(key, turn, len(shape)))
    size, angle = ((bits >> shift & 0xFFFFFF).to(like.dtype) for shift in (40, 16))
    return size.add_(1).mul_(2**-24).log_().mul_(-2).sqrt_().mul_(angle.mul_(2 * math.pi * 2**-24).cos_())


def _start(key: float | Tensor, turn: float | Tensor, dims: int) -> int | Tensor:
    """Return where the counter starts: a plain number, which every device takes, or [n, 1, ...] of n keys."""
    if isinstance(turn, Tensor):
        ahead: int | Tensor = (turn.to(torch.int64) + 1) * GOLDEN
    else:
        ahead = _wrapped((int(turn) + 1) * GOLDEN)
    if isinstance(key, Tensor) or isinstance(ahead, Tensor):
        start = torch.as_tensor(_mixed(torch.as_tensor(key) + ahead))
        return start.view(*start.shape, *[1] * dims)
    return int(_mixed(torch.tensor(_wrapped(int(key) + ahead))))


def _wrapped(x: int) -> int:
    """Return a whole number as int64 holds it, which wraps around."""
    return (x + (1 << 63)) % (1 << 64) - (1 << 63)


def _mixed(z: Tensor) -> Tensor:
    """Finalise SplitMix64 (Steele et al. 2014), whose counter goes in steps of `GOLDEN`: int64 to int64."""
    z = (z >> 30 & (1 << 34) - 1 ^ z) * (0xBF58476D1CE4E5B9 - (1 << 64))
    z = (z >> 27 & (1 << 37) - 1 ^ z) * (0x94D049BB133111EB - (1 << 64))
    return z >> 31 & (1 << 33) - 1 ^ z
