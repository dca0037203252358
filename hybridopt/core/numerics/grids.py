"""Uniform grids of whole codes: every group of values gets its own, one level of which is exactly 0."""

from torch import Tensor, finfo, float32, where
from torch.nn.functional import pad

__all__ = ["GROUP", "decode", "encode", "grid", "groups", "piece"]

GROUP = 256  # values that share a grid
PIECES, LEAST = 16, 1 << 16  # pieces of a weight, and values of a piece
SLACK = 1e-4  # of a level: what float32 may be wrong by


def groups(x: Tensor, size: int = GROUP) -> Tensor:
    """[groups, size]: the values in order, the last group filled up with zeros; a view where nothing is missing."""
    x = x.reshape(-1)
    missing = -x.numel() % size
    return (pad(x, (0, missing)) if missing else x).view(-1, size)


def grid(x: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point, float32 [groups], of the codes 0 ... top for [groups, 256]: value = (code - zero) * scale.

    The range holds 0 whatever the values are, or a group of one sign would collapse. The zero point is whole and the
    scale the smallest that reaches both ends from there, so that no value is cut off and rounding stays unbiased.
    """
    low, high = -x.amin(-1).clamp(max=0), x.amax(-1).clamp(min=0)
    below = low / ((low + high) / top).clamp(min=finfo(float32).tiny)  # levels below 0, with a fraction
    zero = where(low <= high, (below - SLACK).ceil(), (below + SLACK).floor())  # the larger side gives way
    return (low / zero.clamp(min=1)).maximum(high / (top - zero).clamp(min=1)), zero.abs()


def encode(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """[groups, 256] in levels: whole only after rounding."""
    return x / scale.clamp(min=finfo(float32).tiny).unsqueeze(-1) + zero.unsqueeze(-1)


def decode(codes: Tensor, scale: Tensor, zero: Tensor, dtype) -> Tensor:
    """Values in `dtype`; the difference is exact in every float type, so only the product is rounded."""
    return codes.to(dtype).sub_(zero.unsqueeze(-1)).mul_(scale.unsqueeze(-1))


def piece(count: int, most: int) -> int:
    """Values to quantize at a time, whole groups up to `most`, in less room than the weight itself takes."""
    return min(most, max(LEAST, count // PIECES // GROUP * GROUP))
