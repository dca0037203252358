"""Operations on weights kept as codes that need no values: aliases, casts, views and copies of the codes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional

import torch

from ...core.errors import HybridOptError
from ...core.numerics.grids import GROUP

if TYPE_CHECKING:
    from ._int8_weight import Int8Weight

__all__ = ["OWN"]


Made = Optional["Int8Weight"]  # None: do as with any other operation


def _alias(x: "Int8Weight", **_: object) -> Made:
    return x.like(x.codes, x.scale, x.zero)


def _clone(x: "Int8Weight", **_: object) -> Made:
    return x.like(x.codes.clone(), x.scale.clone(), x.zero.clone())


def _cast(x: "Int8Weight", dtype: torch.dtype | None = None, device: torch.device | None = None, **_: object) -> Made:
    """Copy the codes; only the dtype of what they are turned into changes."""
    if dtype is not None and not dtype.is_floating_point:
        return None
    parts = (part.to(device or x.device, copy=True) for part in (x.codes, x.scale, x.zero))
    return x.like(*parts, dtype=dtype or x.dtype)


def _transpose(x: "Int8Weight", one: int = 0, other: int = 1) -> Made:
    last = {x.ndim - 2, x.ndim - 1}
    swaps = x.ndim > 1 and {one % x.ndim, other % x.ndim} == last
    return x.like(x.codes, x.scale, x.zero, transposed=not x.transposed) if swaps else None


def _permute(x: "Int8Weight", dims: list[int]) -> Made:
    swapped = [*range(x.ndim - 2), x.ndim - 1, x.ndim - 2]
    return _transpose(x, -2, -1) if x.ndim > 1 and [d % x.ndim for d in dims] == swapped else None


def _view(x: "Int8Weight", shape: torch.Size) -> Made:
    return None if x.transposed else x.like(x.codes.view(shape), x.scale, x.zero)


def _slice(x: "Int8Weight", dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Made:
    """Take whole groups in a row; None for anything else."""
    start, end, _ = slice(start, end).indices(x.shape[dim])
    row = x.numel() // len(x) if len(x) else 0
    turned = x.transposed and x.ndim == 2
    padded = x.room == len(x) and not start  # fully_shard takes a shard out of its room
    within = end < len(x) and end * row % GROUP and not padded
    if dim or step != 1 or turned or start * row % GROUP or within:
        return None
    first, last = start * row // GROUP, -(-end * row // GROUP)
    return x.like(x.codes[start:end], x.scale[first:last], x.zero[first:last])


def _select(x: "Int8Weight", dim: int, index: int) -> Made:
    """Take a matrix of a stack, if that is so many whole groups; None for anything else."""
    matrix = x.numel() // len(x) if len(x) else 0
    if dim % x.ndim or x.ndim < 3 or matrix % GROUP or not -len(x) <= index < len(x):
        return None
    own, index = matrix // GROUP, index % len(x)
    held = slice(index * own, (index + 1) * own)
    return x.like(x.codes[index], x.scale[held], x.zero[held], room=None)


def _split(x: "Int8Weight", size: int, dim: int = 0) -> "list[Int8Weight] | None":
    """Cut rows into pieces, as `fully_shard` does: each of whole groups, or it is refused."""
    if dim % x.ndim or (x.transposed and x.ndim == 2):
        return None
    pieces = [_slice(x, 0, first, first + size) for first in range(0, len(x), size)]
    if any(piece is None for piece in pieces):
        raise HybridOptError(
            f"a weight of quantization='int8-trainable' of shape {tuple(x.shape)} cannot be cut after every {size} "
            f"rows: {GROUP} values one after the other share a grid, which would lie on two ranks. Shard over another "
            "number of ranks, take DDP, or train without quantization"
        )
    x.pieces = size
    return [piece for piece in pieces if piece is not None]


def _new_zeros(x: "Int8Weight", size: torch.Size, **_: object) -> Made:
    """Make room for a piece of codes, where `fully_shard` asks for it; floats otherwise."""
    fits = len(size) == x.ndim and tuple(size[1:]) == tuple(x.shape[1:]) and size[0] in (x.pieces, x.room)
    if not fits or x.transposed:
        return None
    made = x.zeros(size[0])
    made.room = size[0]
    return made


def _as_strided(x: "Int8Weight", size: torch.Size, stride: torch.Size, offset: int | None = None) -> Made:
    """Return the first rows, as FSDP2 asks for them in what all ranks have sent."""
    rows = len(size) == x.ndim and tuple(size[1:]) == tuple(x.shape[1:]) and size[0] <= len(x)
    return x.first_rows(size[0]) if rows and tuple(stride) == x.stride() and not (offset or x.transposed) else None


def _copy(x: "Int8Weight", source: Any, *_: object) -> Made:
    if type(source) is not type(x) or (source.shape, source.transposed) != (x.shape, x.transposed):
        return None
    for own, part in zip(x.parts().values(), source.parts().values(), strict=True):
        own.copy_(part)
    return x


_aten = torch.ops.aten
OWN: dict[object, Callable[..., Any]] = {
    _aten.detach.default: _alias,
    _aten.alias.default: _alias,
    _aten.clone.default: _clone,
    _aten._to_copy.default: _cast,
    _aten.t.default: _transpose,
    _aten.transpose.int: _transpose,
    _aten.permute.default: _permute,
    _aten.view.default: _view,
    _aten._unsafe_view.default: _view,
    _aten.slice.Tensor: _slice,
    _aten.select.int: _select,
    _aten.copy_.default: _copy,
    _aten.split.Tensor: _split,
    _aten.new_zeros.default: _new_zeros,
    _aten.as_strided.default: _as_strided,
}
