"""Uniform numbers from a counter hash: a pure function of (key, turn, position)."""

import torch
from torch import Tensor

from .splitmix import bits

__all__ = ["uniform"]


def uniform(count: int, key: int, turn: int, device: torch.device) -> Tensor:
    """Return independent numbers of [0, 1), the same bits on every device: float64 [count].

    Args:
        count: of the numbers.
        key: 63 bits.
        turn: which draw, from 0.
        device: where the tensor is made.
    """
    return (bits((count,), key, turn, device) >> 11 & (1 << 53) - 1).to(torch.float64) * 2**-53
