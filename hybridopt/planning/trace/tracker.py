"""Bytes that are alive while torch runs, op by op."""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_iter

from ...core.contracts import Room
from ...core.registry import every

__all__ = ["Moment", "Tracker", "storages"]


@dataclass(frozen=True)
class Moment:
    """The most that was alive at once in an interval, in bytes: made in the forward pass, and made after it.

    stage: where in the step it lies. done: the parameter whose gradient ended the interval; gradient: how much of
    `backward` was that gradient. left: what was alive at the end, made in the forward pass and after it.
    """

    stage: tuple
    forward: float
    backward: float
    done: str | None = None
    gradient: float = 0
    left: tuple[float, float] = (0, 0)

    @property
    def total(self) -> float:
        """All that was alive."""
        return self.forward + self.backward


class Tracker(TorchDispatchMode):
    """Within `with`, the sum of all storages that operations make and nobody has let go of.

    Works on real, fake and meta tensors alike, as it asks storages for their size only. What was there before, and is
    given as `known`, does not count until it is let go of, which is then taken off. device: "cuda" or "cpu" also
    counts what some operations take there for themselves.
    """

    def __init__(self, known: Iterable[Tensor] = (), device: str | None = None):
        super().__init__()
        self.moments: list[Moment] = []
        self._within, self._stage, self._after = _within(device), ("start",), 0
        self._alive, self._top, self._top_age = [0, 0], (0, 0), 0
        self._refs: dict[int, weakref.ref] = {}
        self._born: dict[int, int] = {}  # when each storage was made
        self._age = 0
        for storage in (s for tensor in known for s in storages(tensor)):
            self._note(storage, 0)
        self._alive = [0, 0]
        self.settle()

    @property
    def now(self) -> int:
        """Bytes alive."""
        return sum(self._alive)

    @property
    def peak(self) -> int:
        """The most bytes that were alive at once."""
        return max([sum(self._top), *(m.total for m in self.moments)])

    @property
    def after(self) -> bool:
        """Is the forward pass over?"""
        return bool(self._after)

    def enter(self, stage: tuple, backward: bool = False) -> None:
        """A new stage begins; backward: from now on."""
        self.end()
        self._stage, self._after = stage, int(backward or self._after)

    def end(self, done: str | None = None, gradient: Tensor | None = None) -> None:
        """End the interval, with the gradient of a parameter."""
        size = 0
        for storage in () if gradient is None else storages(gradient):
            size += storage.nbytes() if self._born.get(storage._cdata, 0) <= self._top_age else 0
        self.moments.append(Moment(self._stage, *self._top, done, size, tuple(self._alive)))
        self.settle()

    def settle(self) -> None:
        """What was alive in this interval until now does not count for it."""
        self._keep(0)

    def bump(self, size: int) -> None:
        """So many more bytes were alive for an instant."""
        if self.now + size > sum(self._top):
            self._keep(size)

    def _keep(self, size):
        self._top, self._top_age = (self._alive[0], self._alive[1] + size), self._age

    def watch(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once."""
        for storage in storages(tensor):
            self._note(storage, self._after)
        self.bump(0)

    def _note(self, storage, kind):
        key = storage._cdata
        if key not in self._refs:
            self._refs[key] = weakref.ref(storage, self._forget(key, storage.nbytes(), kind))
            self._alive[kind] += storage.nbytes()
            self._age += 1
            self._born[key] = self._age

    def _forget(self, key, size, kind):
        def gone(_):
            self._alive[kind] -= size
            del self._refs[key], self._born[key]

        return gone

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.prim.device.default:
            return function(*args)
        wrapper = next((t for t in types if t not in (Tensor, torch.nn.Parameter) and _wraps(t)), None)
        if wrapper is not None:  # what it does inside counts, too
            with self:
                return wrapper.__torch_dispatch__(function, types, args, kwargs)
        if self._within and (room := self._within.get(str(function))) is not None:
            self.bump(room(args, kwargs))
        out = function(*args, **kwargs)
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self.watch(tensor)
        return out


def storages(tensor: Tensor) -> list:
    """The storage of a tensor; of a tensor made of others, theirs."""
    if is_traceable_wrapper_subclass(tensor) and _wraps(type(tensor)):
        return [s for name in tensor.__tensor_flatten__()[0] for s in storages(getattr(tensor, name))]
    return [tensor.untyped_storage()]


def _wraps(kind):
    return hasattr(kind, "__tensor_flatten__") and kind.__name__ != "FakeTensor"


def _within(device: str | None) -> dict[str, Room]:
    """Return, by name, the operations that take more memory on a device than they hand out; none without device."""
    if device == "cuda":
        return {name: room for scheme in every("schemes") for name, room in scheme.kernels.items()}
    return {"aten.mul_.Tensor": _mixed} if device == "cpu" else {}


def _mixed(args, _):
    """Return the bytes of a product in place with another dtype on a CPU: factor and result in float32."""
    x, factor = args[:2]
    same = not isinstance(factor, Tensor) or factor.dtype == x.dtype or not factor.dim()
    return 0 if same else 8 * x.numel()
