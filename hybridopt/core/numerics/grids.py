"""Uniform grids of whole codes: every group of values gets its own, one level of which is exactly 0."""

import torch
from torch import Tensor, finfo, float32, where
from torch.nn.functional import pad

__all__ = ["GROUP", "decode", "encode", "grid", "groups", "piece"]

GROUP = 256  # values that share a grid
PIECES, LEAST = 16, 1 << 16  # pieces of a weight, and values of a piece
SLACK = 1e-4  # of a level: what float32 may be wrong by


def groups(x: Tensor, size: int = GROUP) -> Tensor:
    """Return the values of `x` in order, [groups, size], the last filled up with zeros; a view if none is missing."""
    x = x.reshape(-1)
    missing = -x.numel() % size
    return (pad(x, (0, missing)) if missing else x).view(-1, size)


def grid(x: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Return scale and zero point, [groups], of codes 0 ... top for `x` [groups, 256]: (code - zero) * scale == x.

    The range holds 0 whatever the values are, or a group of one sign would collapse. The zero point is whole and the
    scale the smallest that reaches both ends from there, so that no value is cut off and rounding stays unbiased.
    """
    low, high = -x.amin(-1).clamp(max=0), x.amax(-1).clamp(min=0)
    below = low / ((low + high) / top).clamp(min=finfo(float32).tiny)  # levels below 0, with a fraction
    zero = where(low <= high, (below - SLACK).ceil(), (below + SLACK).floor())  # the larger side gives way
    return (low / zero.clamp(min=1)).maximum(high / (top - zero).clamp(min=1)), zero.abs()


def encode(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Return values [groups, 256] in levels of their grids, [groups]: whole only after rounding.

    Args:
        x: values [groups, 256].
        scale: one level, [groups].
        zero: the code of 0, [groups].
    """
    return x / scale.clamp(min=finfo(float32).tiny).unsqueeze(-1) + zero.unsqueeze(-1)


def decode(codes: Tensor, scale: Tensor, zero: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the values of codes, [groups, 256]: the difference is exact in every float type, the product is rounded.

    Args:
        codes: uint8 [groups, 256].
        scale: one level, [groups].
        zero: the code of 0, [groups].
        dtype: of the values.
    """
    return codes.to(dtype).sub_(zero.unsqueeze(-1)).mul_(scale.unsqueeze(-1))


def piece(count: int, most: int) -> int:
    """Return how many of `count` values to quantize at a time: whole groups, up to `most`, in less than their room."""
    return min(most, max(LEAST, count // PIECES // GROUP * GROUP))
