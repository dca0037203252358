"""Which parameters are used while no shifted copy stands in for them."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Watch", "plain"]

METADATA = {
    "__get__",  # attributes; those that are views (T, data) are seen where they are used
    "__set__",
    "__hash__",
    "__len__",
    "data_ptr",
    "dim",
    "element_size",
    "get_device",
    "is_complex",
    "is_contiguous",
    "is_floating_point",
    "nelement",
    "numel",
    "register_hook",
    "requires_grad_",
    "size",
    "stride",
    "untyped_storage",
}


class Watch(TorchFunctionMode):
    """Names of the parameters whose own memory some operation gets to see, also through views and aliases, in `seen`.

    A parameter for which a copy stands in, or whose `data` is a copy for the time being, is elsewhere in memory.
    Metadata (shape, dtype, device) is not looked at, nor is compiled code. quiet: look away.
    """

    def __init__(self, params: Mapping[str, Tensor]):
        super().__init__()
        self.seen: set[str] = set()
        self.quiet = False
        self._whole = {id(p): name for name, p in params.items()}
        self._parts: dict[int, list[tuple[int, int, str]]] = {}
        for name, p in params.items():
            if place := _place(p):
                self._whole.pop(id(p))
                self._parts.setdefault(place[0], []).append((*place[1:], name))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not torch.compiler.is_compiling() and not self.quiet and getattr(func, "__name__", "") not in METADATA:
            for x in _tensors((args, kwargs)):
                self.seen.update(self._found(x))
        return func(*args, **kwargs)

    def _found(self, x):
        if name := self._whole.get(id(x)):
            return [name]
        base, low, high = _place(x) or (0, 0, 0)
        return [name for start, end, name in self._parts.get(base, ()) if low < end and start < high]


def plain(x: Tensor) -> bool:
    """Has it memory of its own, unlike DTensors and other subclasses that keep their values in other tensors?"""
    return not hasattr(x, "to_local") and not hasattr(x, "__tensor_flatten__")


def _tensors(values) -> Iterator[Tensor]:
    for x in values.values() if isinstance(values, dict) else values:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, tuple | list | dict):
            yield from _tensors(x)


def _place(x):
    """(storage, first byte, end) of a plain tensor in memory; None of any other, and of none."""
    if not plain(x) or x.layout is not torch.strided or x.device.type == "meta" or not x.numel():
        return None
    try:
        storage, low = x.untyped_storage().data_ptr(), x.data_ptr()
    except RuntimeError:  # in function transforms, and of fake tensors
        return None
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return storage, low, low + (last + 1) * x.element_size()
