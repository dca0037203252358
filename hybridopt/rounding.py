"""Stochastic rounding from a counter hash: no generator, no state, the same bits on every device."""

import torch
from torch import Tensor

__all__ = ["ahead", "random_bits", "stochastic_bf16", "stochastic_round"]

GOLDEN = 0x9E3779B9


def ahead(key: int, start: int) -> int:
    """The key under which a slice that begins at position `start` gets the bits it would get in the whole tensor."""
    return key >> 32 << 32 | (key + start * GOLDEN) & 0xFFFFFFFF


def random_bits(like: Tensor, key: int) -> Tensor:
    """Sixteen random bits for every element, int32 in [0, 65536), a pure function of (key, position).

    The mixing is the finaliser of MurmurHash3 (Appleby, public domain) on int32, which wraps around.
    """
    x = torch.arange(like.numel(), device=like.device).to(torch.int32).view(like.shape)
    x.mul_(_signed(GOLDEN)).add_(_signed(key & 0xFFFFFFFF))
    x = _mix(x).add_(_signed(key >> 32 & 0x7FFFFFFF))
    return _mix(x).bitwise_and_(0xFFFF)


def stochastic_bf16(x: Tensor, key: int) -> Tensor:
    """Round float32 to bfloat16, up or down with the probability that keeps the mean; NaN and infinity stay."""
    x = x.float()
    bits = x.view(torch.int32).add(random_bits(x, key)).bitwise_and_(-65536)
    return torch.where(x.isfinite(), bits.view(torch.float32), x).to(torch.bfloat16)


def stochastic_round(x: Tensor, key: int) -> Tensor:
    """Round to a whole number, up or down with the probability that keeps the mean; float of the shape of `x`."""
    return torch.floor(x + random_bits(x, key) * (1 / 65536))


def _mix(x: Tensor) -> Tensor:
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF)).mul_(-2048144789)
    x.bitwise_xor_((x >> 13).bitwise_and_(0x7FFFF)).mul_(-1028477387)
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))


def _signed(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word
