"""Which parameters are used while no shifted copy stands in for them."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Seen", "Watch", "plain"]

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


Parts = dict[int, list[tuple[int, int, str]]]  # by storage: first byte, end, name


class Seen:
    """Names of the parameters whose own memory some operation got to see, also through views and aliases, in `names`.

    A parameter for which a copy stands in is elsewhere in memory. Of one whose `data` is a copy for the time being
    the memory counts that it had when it was given.
    """

    def __init__(self, params: Mapping[str, Tensor]):
        self.names: set[str] = set()
        self._whole = {id(p): name for name, p in params.items()}
        self._parts: Parts = {}
        self._moved: Parts = {}
        for name, p in params.items():
            if _note(self._parts, name, p):
                self._whole.pop(id(p))

    def move(self, params: Mapping[str, Tensor]) -> None:
        """Note where parameters are now, besides where they were first; where others have been counts no more."""
        self._moved = {}
        for name, p in params.items():
            _note(self._moved, name, p)

    def add(self, x: Tensor, place: tuple[int, int, int] | None) -> None:
        """Note the parameters that a tensor shares memory with.

        x: what an operation is given. place: its storage, first byte and end; None where it has no memory of its own.
        """
        if name := self._whole.get(id(x)):
            self.names.add(name)
        elif place:
            base, low, high = place
            for start, end, name in (*self._parts.get(base, ()), *self._moved.get(base, ())):
                if low < end and start < high:
                    self.names.add(name)


class Watch(TorchFunctionMode):
    """Shows every operation's tensors to some `Seen`; neither metadata (shape, dtype, device) nor compiled code.

    One mode serves all of them, as two would watch each other. quiet: look away, as from hybridopt's own noise.
    """

    def __init__(self, *seen: Seen):
        super().__init__()
        self.quiet = False
        self._seen = seen

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.quiet or torch.compiler.is_compiling() or getattr(func, "__name__", "") in METADATA:
            return func(*args, **kwargs)
        for x in _tensors(args, kwargs):
            place = _place(x)
            for seen in self._seen:
                seen.add(x, place)
        return func(*args, **kwargs)


def plain(x: Tensor) -> bool:
    """Has it memory of its own, unlike DTensors and other subclasses that keep their values in other tensors?"""
    return not hasattr(x, "__tensor_flatten__")


def _note(parts: Parts, name: str, p: Tensor) -> bool:
    """Note where a parameter is; return whether it has memory of its own."""
    place = _place(p)
    if place is not None:
        parts.setdefault(place[0], []).append((*place[1:], name))
    return place is not None


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
    if not plain(x) or x.layout is not torch.strided or x.device.type == "meta" or not x.numel():
        return None
    try:
        storage, low = x.untyped_storage().data_ptr(), x.data_ptr()
    except RuntimeError:  # in function transforms, and of fake tensors
        return None
    last = 0
    for size, stride in zip(x.shape, x.stride(), strict=True):
        last += (size - 1) * stride
    return storage, low, low + (last + 1) * x.element_size()
