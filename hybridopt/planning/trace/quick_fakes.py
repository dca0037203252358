"""Fake tensors whose operations are looked up once: a layer repeats those of the one before it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from ...core.storages import storage_id

__all__ = ["QuickFakes"]

Key = tuple[Any, ...]
Made = tuple[torch.Size, tuple[int, ...], int, torch.dtype, torch.device]  # shape, strides, offset, dtype, device
Again = Callable[["QuickFakes", Sequence[Any]], Any]  # makes what an operation made of its positional arguments
BY_VALUE = (torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output, torch.Tag.inplace_view)
PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
RETURNED = ("Tensor", "Optional[Tensor]")


class QuickFakes(FakeTensorMode):
    """FakeTensorMode that keeps what an operation makes of arguments of some shapes, and makes it anew the next time.

    Torch keeps this as well; looking it up and making it takes several times longer there, as it serves symbolic
    shapes, sparse and complex tensors, too. Whatever is none of the plain cases is left to it.
    """

    known: dict[Key, Again | None] = {}  # None: left to torch
    repeats: dict[OpOverload, bool] = {}

    def __init__(self) -> None:
        super().__init__()
        self._usual: dict[torch.device, dict[str, Any]] = {}  # attributes of new fake tensors, by device

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return what an operation makes, as torch's own method of this name does.

        Args:
            func: the operation.
            types: of the tensors among its arguments.
            args: its positional arguments.
            kwargs: those by name.
        """
        kwargs = kwargs or {}
        key = self._key(func, args, kwargs)
        again = None if key is None else self.known.get(key)
        if again is not None:
            return again(self, args)
        out = super().dispatch(func, types, args, kwargs)
        if key is not None and key not in self.known:
            self.known[key] = _again(func, args, out)
        return out

    def known_of(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Return what an operation makes, where that is kept; NotImplemented where it has to be run.

        Args:
            func: the operation.
            args: its positional arguments.
            kwargs: those by name.
        """
        key = self._key(func, args, kwargs)
        again = None if key is None else self.known.get(key)
        return NotImplemented if again is None else again(self, args)

    def _key(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Key | None:
        """Return all that the result depends on; None where there is more to it than shapes and plain values."""
        if func not in self.repeats:
            self.repeats[func] = _repeats(func)
        parts: list[Any] = [func, torch.get_default_dtype()]  # of which quotients of integers are
        if self.repeats[func] and self._told(args, parts) and (not kwargs or self._told(list(kwargs.items()), parts)):
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

    def made(self, shape: Any, stride: Any, offset: int, dtype: Any, device: Any, memory: Any = None) -> FakeTensor:
        """Return a tensor of its own memory, or of memory that is given.

        Args:
            shape: of the tensor.
            stride: in elements.
            offset: in elements, into the memory that is given.
            dtype: of the elements.
            device: which the tensor says it is on.
            memory: of another tensor, of which this one is a view; None: its own.
        """
        with torch._C._DisableTorchDispatch():
            made = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
            if memory is not None:
                made.set_(memory, offset, shape, stride)
            if device not in self._usual:
                self._usual[device] = vars(FakeTensor(self, made, device)).copy()
            fake = Tensor._make_subclass(FakeTensor, made, False, dispatch_device=True, device_for_backend_keys=device)
        torch._C._set_throw_on_mutable_data_ptr(fake)
        vars(fake).update(self._usual[device])
        return fake


def _repeats(func: Any) -> bool:
    """Return whether what an operation makes depends on nothing but shapes and plain values."""
    if not isinstance(func, OpOverload) or any(tag in func.tags for tag in BY_VALUE):
        return False
    schema = func._schema
    if not schema.returns or any(str(r.type) not in RETURNED for r in schema.returns):
        return False
    written = [a.is_out or i > 0 for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.is_write]
    return not schema.is_mutable or (written == [False] and len(schema.returns) == 1)


def _again(func: OpOverload, args: Sequence[Any], out: Any) -> Again | None:
    """Return what makes `out` anew: tensors, a view of the first argument, or that itself; None for all else."""
    if args and out is args[0]:
        return _first
    outs = out if isinstance(out, tuple | list) else (out,)
    tensors = [x for x in outs if x is not None]
    if func._schema.is_mutable or not all(map(_plain, tensors)):
        return None
    made = [None if x is None else (x.shape, x.stride(), x.storage_offset(), x.dtype, x.fake_device) for x in outs]
    owned = [storage_id(x) for x in tensors]
    if outs is not out and made[0] and args and isinstance(args[0], FakeTensor):
        if owned[0] == storage_id(args[0]):
            return _View(made[0])
    given = {storage_id(x) for x in _tensors(args)}
    own = len(set(owned)) == len(owned) and given.isdisjoint(owned) and all(map(_full, tensors))
    return _New(tuple(made), isinstance(out, tuple | list)) if own else None


def _first(fakes: QuickFakes, args: Sequence[Any]) -> Any:
    return args[0]


@dataclass(frozen=True)
class _View:
    """Makes a view of the first argument."""

    made: Made

    def __call__(self, fakes: QuickFakes, args: Sequence[Any]) -> FakeTensor:
        return fakes.made(*self.made, args[0].untyped_storage())


@dataclass(frozen=True)
class _New:
    """Makes tensors of their own memory, one, or several."""

    made: tuple[Made | None, ...]
    several: bool

    def __call__(self, fakes: QuickFakes, args: Sequence[Any]) -> Any:
        out = tuple(None if each is None else fakes.made(*each) for each in self.made)
        return out if self.several else out[0]


def _plain(x: Any) -> bool:
    if type(x) is not FakeTensor or x.constant is not None or x.requires_grad:
        return False
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
