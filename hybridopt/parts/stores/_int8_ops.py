"""Operations on weights kept as codes that need no values: aliases, casts, views and copies of the codes."""

import torch

from ...core.numerics.grids import GROUP

__all__ = ["OWN"]

SWAPS = ((), (0, 1), (1, 0), (-1, -2), (-2, -1), ([1, 0],))


def _alias(x, **_):
    return x.like(x.codes, x.scale, x.zero)


def _clone(x, **_):
    return x.like(x.codes.clone(), x.scale.clone(), x.zero.clone())


def _cast(x, dtype=None, device=None, **_):
    """Other codes of the same values; only the dtype of what they are turned into changes."""
    if dtype is not None and not dtype.is_floating_point:
        return None
    parts = (part.to(device or x.device, copy=True) for part in (x.codes, x.scale, x.zero))
    return x.like(*parts, dtype=dtype or x.dtype)


def _transpose(x, *dims):
    return x.like(x.codes, x.scale, x.zero, transposed=not x.transposed) if x.ndim == 2 and dims in SWAPS else None


def _view(x, shape):
    return None if x.transposed else x.like(x.codes.view(shape), x.scale, x.zero)


def _slice(x, dim=0, start=None, end=None, step=1):
    """Whole groups in a row."""
    start, end, _ = slice(start, end).indices(x.shape[dim])
    row = x.numel() // len(x) if len(x) else 0
    if dim or step != 1 or x.transposed or start * row % GROUP or (end < len(x) and end * row % GROUP):
        return None
    first, last = start * row // GROUP, -(-end * row // GROUP)
    return x.like(x.codes[start:end], x.scale[first:last], x.zero[first:last])


def _copy(x, source, *_):
    if type(source) is not type(x) or (source.shape, source.transposed) != (x.shape, x.transposed):
        return None
    for name, part in source.parts().items():
        getattr(x, name).copy_(part)
    return x


_aten = torch.ops.aten
OWN = {  # None from them: do as with any other operation
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
