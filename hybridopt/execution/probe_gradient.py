"""A gradient that is worked out where it is needed, a slice at a time: of random directions and the backward pass."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.contracts import Noise, Shape
from ..core.numerics.directions import Direction, combine_

__all__ = ["ProbeGradient", "shifted"]

PIECE = 1 << 18  # elements of a direction that exist at one time


@dataclass(frozen=True, eq=False)
class ProbeGradient:
    """g = share * backprop + sum_k weight_k z_k, for the elements from `start` on; behaves as a tensor of `shape`.

    terms: (weight, direction). Its parts are estimates; `to` makes a tensor, and products and sums are rounded one by
    one, so that all devices agree.
    """

    terms: tuple[tuple[float, Noise], ...]
    shape: Shape
    device: torch.device
    dtype: torch.dtype = torch.float32
    backprop: Tensor | None = None  # contiguous, of all elements
    share: float = 1.0
    start: int = 0

    def numel(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    def reshape(self, *shape: int | Sequence[int]) -> "ProbeGradient":
        """The same elements in another shape; one of its sizes may be -1."""
        sizes = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        rest = math.prod(n for n in sizes if n >= 0)
        return replace(self, shape=tuple(self.numel() // rest if n < 0 else n for n in sizes))

    view = reshape

    def contiguous(self) -> "ProbeGradient":
        """Itself."""
        return self

    def __getitem__(self, at: int | slice) -> "ProbeGradient":
        """One of its parts, or some in a row."""
        size = math.prod(self.shape[1:])
        if isinstance(at, int):
            return replace(self, shape=self.shape[1:], start=self.start + at * size)
        first, last, _ = at.indices(self.shape[0])
        return replace(self, shape=(last - first, *self.shape[1:]), start=self.start + first * size)

    def to(self, dtype: torch.dtype) -> Tensor:
        """All of it."""
        at, count = self.start, self.numel()
        out = torch.zeros(count, dtype=self.dtype, device=self.device)
        if self.backprop is not None:
            out.copy_(self.backprop.view(-1)[at : at + count]).mul_(self.share)
        for weight, noise in self.terms:
            for low in range(0, count, PIECE):
                size = min(PIECE, count - low)
                out[low : low + size].add_(noise.values(at + low, size, self.device).to(self.dtype).mul_(weight))
        return out.view(self.shape).to(dtype)


def shifted(base: Tensor, scale: float, noise: Noise, compile: bool) -> Tensor:
    """base + scale z in a new tensor, rounded to nearest once."""
    base = base.contiguous()
    out = torch.empty_like(base)
    if isinstance(noise, Direction):
        combine_(out, base, [(scale, noise)], compile=compile)
        return out
    arithmetic = torch.float64 if base.dtype == torch.float64 else torch.float32
    flat, into = base.view(-1), out.view(-1)
    for low in range(0, flat.numel(), PIECE):
        z = noise.values(low, min(PIECE, flat.numel() - low), base.device).to(arithmetic)
        into[low : low + PIECE] = z.mul_(scale).add_(flat[low : low + PIECE])
    return out
