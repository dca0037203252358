"""Bytes that are alive while torch runs, op by op."""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_iter

__all__ = ["Moment", "Tracker", "storages"]

DEQUANTIZES_FROM = 1537  # tokens: bitsandbytes' CUDA product makes the dense weight first (0.50, gemm_4bit)


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
        self._within, self._stage, self._after = WITHIN.get(device, {}), ("start",), 0
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


def _dense(args, kwargs):
    """Bytes of the dense weight that a 4-bit product makes for many tokens, with its output still to come."""
    x, _, shape, absmax = args[:4]
    tokens = x.numel() // x.shape[-1]
    scales = kwargs.get("absmax_8bit")
    dense = shape[0] * shape[1] * x.element_size() + (0 if scales is None else 4 * scales.numel())
    return dense + tokens * shape[0] * x.element_size() if tokens >= DEQUANTIZES_FROM else 0


def _products(args, kwargs):
    """Bytes of an 8-bit product on a GPU: whole numbers, then float16, then the dtype that was asked for."""
    codes, weight = args[:2]
    dtype = kwargs.get("dtype") or torch.float16
    size = 6 if dtype == torch.float16 else 6 + dtype.itemsize
    return size * (codes.numel() // codes.shape[-1]) * weight.shape[0]


def _outliers(args, _):
    """Bytes of looking for large activations on a GPU: their absolute values, and one byte for each."""
    return 3 * args[0].numel()


def _mixed(args, _):
    """Bytes of a product in place with another dtype on a CPU: both the factor and the result in float32."""
    x, factor = args[:2]
    same = not isinstance(factor, Tensor) or factor.dtype == x.dtype or not factor.dim()
    return 0 if same else 8 * x.numel()


WITHIN = {  # operations that take more than they hand out
    "cuda": {
        "bitsandbytes.gemm_4bit.default": _dense,
        "bitsandbytes.int8_scaled_mm.default": _products,
        "bitsandbytes.int8_vectorwise_quant.default": _outliers,
    },
    "cpu": {"aten.mul_.Tensor": _mixed},
}
