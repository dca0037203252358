"""float32 in two parts: a bfloat16, and eight bits of what it leaves."""

import torch
from torch import Tensor

__all__ = ["joined", "parted"]


def parted(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round float32 to 24 bits, and part them into the nearest bfloat16 and an int8 remainder, shape of `x` each.

    Read as integers, floats of one sign are in order, so both roundings are of integers, and carry into the exponent.
    What is not finite has no remainder.
    """
    bits = torch.where(x.isfinite(), x, 0).view(torch.int32)
    kept = (bits + 0x80) >> 8  # 24 bits
    high = (kept + 0x80) >> 8
    low = (kept - (high << 8)).to(torch.int8)
    return torch.where(x.isfinite(), high.to(torch.int16).view(torch.bfloat16), x.to(torch.bfloat16)), low


def joined(high: Tensor, low: Tensor) -> Tensor:
    """Return the float32 that `parted` has left in a bfloat16 and an int8, a tensor of its own."""
    return ((high.view(torch.int16).to(torch.int32) << 16) + (low.to(torch.int32) << 8)).view(torch.float32)
