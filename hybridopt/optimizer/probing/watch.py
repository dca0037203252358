"""Which parameters are used while no shifted copy stands in for them."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Watch", "plain", "unseen"]

unseen = torch._C.DisableTorchFunction  # a context in which no watch sees what hybridopt itself computes
USUAL = (Tensor, torch.nn.Parameter)
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
    Metadata (shape, dtype, device) is not looked at, nor is compiled code.
    """

    def __init__(self, params: Mapping[str, Tensor]):
        super().__init__()
        self.seen: set[str] = set()
        self._whole = {id(p): name for name, p in params.items()}
        self._parts: dict[int, list[tuple[int, int, str]]] = {}
        for name, p in params.items():
            if place := _place(p):
                self._whole.pop(id(p))
                self._parts.setdefault(place[0], []).append((*place[1:], name))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not torch.compiler.is_compiling() and getattr(func, "__name__", "") not in METADATA:
            with unseen():  # by a watch around this one
                for x in _tensors(args, kwargs):
                    self._look_at(x)
        return func(*args, **kwargs)

    def _look_at(self, x):
        name = self._whole.get(id(x))
        if name:
            self.seen.add(name)
            return
        base, low, high = _place(x) or (0, 0, 0)
        for start, end, name in self._parts.get(base, ()):
            if low < end and start < high:
                self.seen.add(name)


def plain(x: Tensor) -> bool:
    """Has it memory of its own, unlike DTensors and other subclasses that keep their values in other tensors?"""
    return type(x) in USUAL or not (hasattr(x, "to_local") or hasattr(x, "__tensor_flatten__"))


def _tensors(args: tuple, kwargs: dict) -> list[Tensor]:
    """All tensors among the arguments of an operation, within lists, tuples and dicts too."""
    found, left = [], [*args, *kwargs.values()]
    while left:
        x = left.pop()
        if isinstance(x, Tensor):
            found.append(x)
        elif isinstance(x, tuple | list):
            left += x
        elif isinstance(x, dict):
            left += x.values()
    return found


def _place(x):
    """(storage, first byte, end) of a plain tensor in memory; None of any other, and of none."""
    if type(x) not in USUAL and not plain(x):
        return None
    if x.layout is not torch.strided or x.device.type == "meta" or not x.numel():
        return None
    try:
        storage, low = x.untyped_storage().data_ptr(), x.data_ptr()
    except RuntimeError:  # in function transforms, and of fake tensors
        return None
    last = 0
    for size, stride in zip(x.shape, x.stride(), strict=True):
        last += (size - 1) * stride
    return storage, low, low + (last + 1) * x.element_size()
