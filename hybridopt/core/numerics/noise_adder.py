"""What compiled kernels add to weights: random bits as noise, term by term, in a fixed order of arithmetic."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Kernel", "adder"]

Kernel = Callable[..., Any]


def adder(kinds: tuple[str, ...], wide: bool) -> Kernel:
    """Return out <- decay base + noise; out, base: [blocks, 4, 32], no base: `out`; in the order of `directions`."""

    def narrow(out: Tensor, base: Tensor | None, bits: list[Tensor], numbers: Tensor, table: Tensor | None) -> None:
        scales = numbers[1:].float().unbind()
        total = _signed(bits[0], scales[0])
        for word, scale in zip(bits[1:], scales[1:], strict=True):
            total = total + _signed(word, scale)
        out.copy_(((out if base is None else base).float() + total).to(out.dtype))

    def in_double(out: Tensor, base: Tensor | None, bits: list[Tensor], numbers: Tensor, table: Tensor) -> None:
        decay, *scales = numbers.unbind()
        total = (out if base is None else base).double() * decay
        for kind, word, scale in zip(kinds, bits, scales, strict=True):
            z = _ones(word) if kind == "rademacher" else table[word.int() & 0xFFFF]
            total = total + z.double() * scale
        out.copy_(total.float().to(out.dtype))

    return in_double if wide else narrow


def _signed(word: Tensor, scale: Tensor) -> Tensor:
    """Return the scale with the sign of every bit; choosing is faster than multiplying."""
    return torch.where(_bit(word) == 0, scale, -scale)


def _ones(word: Tensor) -> Tensor:
    return 1 - 2 * _bit(word)


def _bit(word: Tensor) -> Tensor:
    return word[..., None] >> torch.arange(32, dtype=torch.int32, device=word.device) & 1
