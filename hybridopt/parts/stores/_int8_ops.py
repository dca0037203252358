"""Operations on weights kept as codes that need no values: aliases, casts, views and copies of the codes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional

import torch

from ...core.numerics.grids import GROUP

if TYPE_CHECKING:
    from ._int8_weight import Int8Weight

__all__ = ["OWN"]

SWAPS = ((), (0, 1), (1, 0), (-1, -2), (-2, -1), ([1, 0],))


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


def _transpose(x: "Int8Weight", *dims: object) -> Made:
    return x.like(x.codes, x.scale, x.zero, transposed=not x.transposed) if x.ndim == 2 and dims in SWAPS else None


def _view(x: "Int8Weight", shape: torch.Size) -> Made:
    return None if x.transposed else x.like(x.codes.view(shape), x.scale, x.zero)


def _slice(x: "Int8Weight", dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Made:
    """Take whole groups in a row; None for anything else."""
    start, end, _ = slice(start, end).indices(x.shape[dim])
    row = x.numel() // len(x) if len(x) else 0
    if dim or step != 1 or x.transposed or start * row % GROUP or (end < len(x) and end * row % GROUP):
        return None
    first, last = start * row // GROUP, -(-end * row // GROUP)
    return x.like(x.codes[start:end], x.scale[first:last], x.zero[first:last])


def _copy(x: "Int8Weight", source: Any, *_: object) -> Made:
    if type(source) is not type(x) or (source.shape, source.transposed) != (x.shape, x.transposed):
        return None
    for own, part in zip(x.parts().values(), source.parts().values(), strict=True):
        own.copy_(part)
    return x


_aten = torch.ops.aten
OWN: dict[object, Callable[..., Made]] = {
    _aten.detach.default: _alias,
    _aten.alias.default: _alias,
    _aten.clone.default: _clone,
    _aten._to_copy.default: _cast,
    _aten.t.default: _transpose,
    _aten.transpose.int: _transpose,
    _aten.permute.default: _transpose,
    _aten.view.default: _view,
    _aten._unsafe_view.default: _view,
    _aten.slice.Tensor: _slice,
    _aten.copy_.default: _copy,
}
