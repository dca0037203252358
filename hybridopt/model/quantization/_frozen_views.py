"""Operations on frozen weights that need no values: aliases, casts, copies, and views of whole rows."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Union

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .frozen_weight import FrozenWeight

__all__ = ["VIEWS"]

Made = Union["FrozenWeight", list["FrozenWeight"], None]  # None: dequantize it, as for any other operation


def _alias(x: "FrozenWeight", **_: object) -> Made:
    return x.seen_as()


def _clone(x: "FrozenWeight", memory_format: object = None, **_: object) -> Made:
    return x.of({name: part.clone() for name, part in x.parts().items()}) if x.form.is_whole else None


def _cast(
    x: "FrozenWeight", dtype: torch.dtype | None = None, device: torch.device | None = None, **_: object
) -> Made:
    """Move the codes; only the dtype of what they are turned into changes."""
    if dtype is not None and not dtype.is_floating_point:
        return None
    moved = x.of({name: part.to(device or x.device) for name, part in x.parts().items()})
    return moved.seen_as(dtype=dtype or x.dtype)


def _transpose(x: "FrozenWeight", one: int = 0, other: int = 1) -> Made:
    last = {x.ndim - 2, x.ndim - 1}
    return x.seen_as(transposed=not x.form.transposed) if {one % x.ndim, other % x.ndim} == last else None


def _permute(x: "FrozenWeight", dims: list[int]) -> Made:
    order = [d % x.ndim for d in dims]
    swapped = [*range(x.ndim - 2), x.ndim - 1, x.ndim - 2]
    return x.seen_as(transposed=not x.form.transposed) if x.ndim > 1 and order == swapped else None


def _view(x: "FrozenWeight", shape: list[int]) -> Made:
    if x.form.transposed:
        return None
    known = math.prod(s for s in shape if s >= 0)
    return x.seen_as(shape=tuple(x.numel() // known if s < 0 else s for s in shape)) if known else None


def _rows(x: "FrozenWeight", start: int, end: int) -> "FrozenWeight":
    row = math.prod(x.shape[1:])
    return x.seen_as(start=x.form.start + start * row, shape=(end - start, *x.form.shape[1:]))


def _has_rows(x: "FrozenWeight", dim: int) -> bool:
    """Return whether what `dim` counts lies in a row: the first dimension, unless that is one of two swapped ones."""
    return dim % x.ndim == 0 and (x.ndim > 2 or not x.form.transposed)


def _slice(x: "FrozenWeight", dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Made:
    start, end, _ = slice(start, end).indices(x.shape[dim])
    return _rows(x, start, max(start, end)) if step == 1 and _has_rows(x, dim) else None


def _select(x: "FrozenWeight", dim: int, index: int) -> Made:
    if x.ndim < 2 or not _has_rows(x, dim) or not -len(x) <= index < len(x):
        return None
    one = _rows(x, index % len(x), index % len(x) + 1)
    return one.seen_as(shape=one.form.shape[1:])


def _unbind(x: "FrozenWeight", dim: int = 0) -> Made:
    found: list[Any] = [_select(x, dim, i) for i in range(x.shape[dim])]
    return None if None in found else found


def _split(x: "FrozenWeight", size: int, dim: int = 0) -> Made:
    if not _has_rows(x, dim):
        return None
    return [_rows(x, i, min(i + size, len(x))) for i in range(0, len(x), size)]


def _copy(x: "FrozenWeight", source: Tensor, *_: object) -> Made:
    if type(source) is not type(x) or source.form != x.form or not x.form.is_whole:
        return None
    for own, part in zip(x.parts().values(), source.parts().values(), strict=True):
        own.copy_(part)
    return x


_aten = torch.ops.aten
VIEWS: dict[object, Callable[..., Made]] = {
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
    _aten.unbind.int: _unbind,
    _aten.split.Tensor: _split,
    _aten.copy_.default: _copy,
}
