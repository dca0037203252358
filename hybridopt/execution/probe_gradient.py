"""Gradients from probes of the loss, worked out slice by slice from random directions and the backward pass."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from ..core.contracts import Noise, Shape
from ..core.numerics.direction_kernels import room
from ..core.numerics.directions import Direction, combine_

__all__ = ["ProbeGradient", "shifted"]

PIECES = {"cpu": 1 << 18}  # elements of a direction that exist at one time: they should stay in the cache
ELSEWHERE = 1 << 24  # on an accelerator a piece only bounds memory, and every one takes launches
NORMAL = torch.finfo(torch.float32)


@dataclass(frozen=True, eq=False)
class ProbeGradient:
    """g = share * backprop + sum_k weight_k z_k, as a tensor of `shape` that takes no memory until `to` makes it.

    Rows and elements of it are of this class, too. Every product and sum is rounded by itself, so that all devices
    agree.

    Args:
        terms: (weight_k, direction z_k).
        shape: of the gradient, or of the part of it that this is.
        device: where it is made.
        dtype: in which products and sums are rounded.
        backprop: the gradient of the backward pass, contiguous, of all that this rank has of the parameter; None:
            there is none.
        share: how much of `backprop` counts.
        start: the position of its first element in the flattened parameter.
        kernels: are elementwise directions made by compiled kernels, with the same bits?
        before: the position of the first element of `backprop`, where the parameter is sharded.
    """

    terms: tuple[tuple[float, Noise], ...]
    shape: Shape
    device: torch.device
    dtype: torch.dtype = torch.float32
    backprop: Tensor | None = None
    share: float = 1.0
    start: int = 0
    kernels: bool = False
    before: int = 0

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def numel(self) -> int:
        """Return the number of elements."""
        return math.prod(self.shape)

    def reshape(self, *shape: int | Sequence[int]) -> "ProbeGradient":
        """Return the same elements in another shape, in which one size may be -1."""
        sizes: Any = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        rest = math.prod(n for n in sizes if n >= 0)
        return replace(self, shape=tuple(self.numel() // rest if n < 0 else n for n in sizes))

    view = reshape

    def contiguous(self) -> "ProbeGradient":
        """Return itself."""
        return self

    def __getitem__(self, at: int | slice) -> "ProbeGradient":
        """Return row `at`, or the rows of a slice without a step, along the first dimension."""
        size = math.prod(self.shape[1:])
        if isinstance(at, int):
            return replace(self, shape=self.shape[1:], start=self.start + at * size)
        first, last, _ = at.indices(self.shape[0])
        return replace(self, shape=(last - first, *self.shape[1:]), start=self.start + first * size)

    def to(self, dtype: torch.dtype) -> Tensor:
        """Materialise the gradient: a tensor of `self.shape` in `dtype`, numel x itemsize bytes."""
        at, count = self.start, self.numel()
        out = torch.zeros(count, dtype=self.dtype, device=self.device)
        if self.backprop is not None:
            own = self.backprop.view(-1)[at - self.before :]
            out.copy_(own[:count]).mul_(self.share)
        for weight, noise in self.terms:
            if self._at_once(weight, noise):
                combine_(out, out, [(weight, cast(Direction, noise))], at, compile=True)
            else:
                self._add_in_pieces(out, weight, noise)
        return out.view(self.shape).to(dtype)

    def room(self, count: int) -> int:
        """Return the bytes that accelerators' kernels take for a moment to add a direction to `count` elements."""
        return max([0, *(self._room(weight, noise, count) for weight, noise in self.terms if self._by_kernels(noise))])

    def _room(self, weight, noise, count):
        if self._at_once(weight, noise):
            return room(noise.kind, count, self.dtype, "cuda")
        size = min(count, _piece(self.device))
        double = 8 * size * (self.dtype == torch.float64)
        return 4 * size + max(double, room(noise.kind, size, torch.float32, "cuda"))

    def _by_kernels(self, noise: Noise) -> bool:
        return self.kernels and isinstance(noise, Direction)

    def _at_once(self, weight: float, noise: Noise) -> bool:
        """Return whether `combine_` rounds as is done here: in float32, products with +1 and -1 are exact."""
        signs = self._by_kernels(noise) and cast(Direction, noise).kind == "rademacher"
        return signs and self.dtype == torch.float32 and NORMAL.tiny <= abs(weight) <= NORMAL.max

    def _add_in_pieces(self, out: Tensor, weight: float, noise: Noise) -> None:
        piece = _piece(self.device)
        for low in range(0, len(out), piece):
            size = min(piece, len(out) - low)
            out[low : low + size].add_(self._values(noise, low, size).to(self.dtype).mul_(weight))

    def _values(self, noise: Noise, low: int, count: int) -> Tensor:
        if not self._by_kernels(noise):
            return noise.values(self.start + low, count, self.device)
        z = torch.zeros(count, device=self.device)
        combine_(z, z, [(1.0, cast(Direction, noise))], self.start + low, compile=True)  # 0 + 1 z, which is exact
        return z


def shifted(base: Tensor, scale: float, noise: Noise, compile: bool, start: int = 0) -> Tensor:
    """Return base + scale z in a new tensor, rounded to nearest once.

    Args:
        base: the weight, or a part of it.
        scale: how far it is shifted.
        noise: the direction z of the weight.
        compile: may kernels be compiled for it?
        start: the position of the first element of `base` in the flattened weight.
    """
    base = base.contiguous()
    out = torch.empty_like(base)
    if isinstance(noise, Direction):
        combine_(out, base, [(scale, noise)], start, compile=compile)
        return out
    arithmetic = torch.float64 if base.dtype == torch.float64 else torch.float32
    flat, into, piece = base.view(-1), out.view(-1), _piece(base.device)
    for low in range(0, flat.numel(), piece):
        z = noise.values(start + low, min(piece, flat.numel() - low), base.device).to(arithmetic)
        into[low : low + piece] = z.mul_(scale).add_(flat[low : low + piece])
    return out


def _piece(device: torch.device) -> int:
    return PIECES.get(device.type, ELSEWHERE)
