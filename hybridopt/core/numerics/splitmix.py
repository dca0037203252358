"""SplitMix64 (Steele et al. 2014): random bits from a counter, a pure function of (key, turn, position)."""

import math
from typing import Any

import torch
from torch import Tensor

from ..contracts import Shape

__all__ = ["bits"]

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as int64, which wraps around


def bits(shape: Shape, key: float | Tensor, turn: float | Tensor, device: torch.device) -> Tensor:
    """Return independent random bits, the same on every device: int64 [*shape], or [n, *shape] of n keys.

    Args:
        shape: of one draw.
        key: 63 bits, or an int64 tensor of shape [] or [n].
        turn: which draw, from 0; whole.
        device: where the tensor is made.
    """
    position = torch.arange(math.prod(shape), device=device).view(shape)
    drawn: Tensor = _mixed(position * GOLDEN + _start(key, turn, len(shape)))
    return drawn


def _start(key: float | Tensor, turn: float | Tensor, dims: int) -> int | Tensor:
    """Return where the counter starts: a plain number, which every device takes, or [n, 1, ...] of n keys."""
    if isinstance(turn, Tensor):
        ahead: int | Tensor = (turn.to(torch.int64) + 1) * GOLDEN
    else:
        ahead = _wrapped((int(turn) + 1) * GOLDEN)
    if isinstance(key, Tensor) or isinstance(ahead, Tensor):
        start = torch.as_tensor(_mixed(torch.as_tensor(key) + ahead))
        return start.view(*start.shape, *[1] * dims)
    return int(_mixed(_wrapped(int(key) + ahead)))


def _wrapped(x: int) -> int:
    """Return a whole number as int64 holds it, which wraps around."""
    return (x + (1 << 63)) % (1 << 64) - (1 << 63)


def _mixed(z: Any) -> Any:
    """Finalise SplitMix64, whose counter goes in steps of `GOLDEN`: int64 to int64, or a number as int64 holds it."""
    fit = (lambda x: x) if isinstance(z, Tensor) else _wrapped
    z = fit((z >> 30 & (1 << 34) - 1 ^ z) * (0xBF58476D1CE4E5B9 - (1 << 64)))
    z = fit((z >> 27 & (1 << 37) - 1 ^ z) * (0x94D049BB133111EB - (1 << 64)))
    return z >> 31 & (1 << 33) - 1 ^ z
