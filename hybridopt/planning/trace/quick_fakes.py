"""Fake tensors whose operations are looked up once: a layer repeats those of the one before it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager

__all__ = ["QuickFakes"]

Key = tuple[Any, ...]
Made = tuple[torch.Size, tuple[int, ...], int, torch.dtype, torch.device]  # shape, strides, offset, dtype, device
NAMESPACES = ("aten", "prims")
BY_VALUE = (torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output, torch.Tag.inplace_view)
PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


class QuickFakes(FakeTensorMode):
    """FakeTensorMode that keeps what an operation makes of arguments of some shapes, and makes it anew the next time.

    Torch keeps this as well; looking it up and making it takes several times longer there, as it serves symbolic
    shapes, sparse and complex tensors, too. Whatever is none of the plain cases is left to it.
    """

    known: dict[Key, tuple[Made, ...] | None] = {}  # None: left to torch
    kinds: dict[OpOverload, "Callable[[QuickFakes, Sequence[Any], Sequence[Made]], Any] | None"] = {}

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return what an operation makes, as torch's own method of this name does.

        Args:
            func: the operation.
            types: of the tensors among its arguments.
            args: its positional arguments.
            kwargs: those by name.
        """
        kwargs = kwargs or {}
        if func not in self.kinds:
            self.kinds[func] = _kind(func)
        again = self.kinds[func]
        key = None if again is None else self._key(func, args, kwargs)
        if again is None or key is None:
            return super().dispatch(func, types, args, kwargs)
        if key not in self.known:
            out = super().dispatch(func, types, args, kwargs)
            self.known[key] = _made(again, args, out)
            return out
        found = self.known[key]
        return super().dispatch(func, types, args, kwargs) if found is None else again(self, args, found)

    def _key(self, func: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> Key | None:
        """Return all that the result depends on; None where there is more to it than shapes and plain values."""
        parts: list[Any] = [func]
        if self._told(args, parts) and (not kwargs or self._told(list(kwargs.items()), parts)):
            return tuple(parts)
        return None

    def _told(self, values: Sequence[Any], parts: list[Any]) -> bool:
        """Add to `parts` what tells values apart; return whether all of them are plain."""
        for x in values:
            kind = type(x)
            if kind is FakeTensor:
                if (
                    x.constant is not None
                    or x.fake_mode is not self
                    or x.dtype.is_complex
                    or x.layout != torch.strided
                ):
                    return False
                parts += (x.shape, x.stride(), x.storage_offset(), x.dtype, x.fake_device)
            elif kind in (list, tuple):
                parts.append(len(x))
                if not self._told(x, parts):
                    return False
            elif kind in PLAIN:
                parts += (kind, x)  # 1, 1.0 and True are equal
            else:
                return False
        return True

    def made_new(self, args: Sequence[Any], found: Sequence[Made]) -> Any:
        """Return tensors of their own memory."""
        out = tuple(self._fake(*each) for each in found)
        return out[0] if len(out) == 1 else out

    def made_views(self, args: Sequence[Any], found: Sequence[Made]) -> Any:
        """Return a view of the first argument."""
        return self._fake(*found[0], args[0].untyped_storage())

    def made_in_place(self, args: Sequence[Any], found: Sequence[Made]) -> Any:
        """Return the first argument, which was written to."""
        return args[0]

    def _fake(self, shape: Any, stride: Any, offset: int, dtype: Any, device: Any, memory: Any = None) -> FakeTensor:
        with in_kernel_invocation_manager(self):
            made = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
            if memory is not None:
                made.set_(memory, offset, shape, stride)
        return FakeTensor(self, made, device)


def _kind(func: Any) -> Any:
    """Return what repeats an operation: one that makes tensors, a view, or writes in place; None for all others."""
    if not isinstance(func, OpOverload) or func.namespace not in NAMESPACES or any(t in func.tags for t in BY_VALUE):
        return None
    schema = func._schema
    if not schema.returns or any(str(r.type) != "Tensor" for r in schema.returns):
        return None
    if func.is_view:
        return QuickFakes.made_views if len(schema.returns) == 1 else None
    written = [a.is_out or i > 0 for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.is_write]
    if not schema.is_mutable:
        return QuickFakes.made_new if all(r.alias_info is None for r in schema.returns) else None
    return QuickFakes.made_in_place if written == [False] and len(schema.returns) == 1 else None


def _made(again: Any, args: Sequence[Any], out: Any) -> tuple[Made, ...] | None:
    """Return what `again` makes `out` anew of; None where it would be something else."""
    outs = out if isinstance(out, tuple | list) else (out,)
    if not all(type(x) is FakeTensor and x.constant is None and not x.requires_grad for x in outs):
        return None
    if not all(map(_plain, outs)):
        return None
    owned = [x.untyped_storage()._cdata for x in outs]
    given = {x.untyped_storage()._cdata for x in _tensors(args)}
    own = len(set(owned)) == len(owned) and given.isdisjoint(owned)
    if again is QuickFakes.made_in_place:
        return () if out is args[0] else None
    if again is QuickFakes.made_views and owned[0] != args[0].untyped_storage()._cdata:
        return None
    if again is QuickFakes.made_new and not (own and all(map(_full, outs))):
        return None
    return tuple((x.shape, x.stride(), x.storage_offset(), x.dtype, x.fake_device) for x in outs)


def _plain(x: FakeTensor) -> bool:
    return x.layout == torch.strided and not x.dtype.is_complex


def _full(x: FakeTensor) -> bool:
    """Return whether a tensor's memory is as large as its shape and strides need."""
    last = sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) + 1 if x.numel() else 0
    return x.storage_offset() == 0 and x.untyped_storage().nbytes() == last * x.dtype.itemsize


def _tensors(values: Sequence[Any]) -> Iterator[FakeTensor]:
    for x in values:
        if isinstance(x, FakeTensor):
            yield x
        elif isinstance(x, list | tuple):
            yield from _tensors(x)
