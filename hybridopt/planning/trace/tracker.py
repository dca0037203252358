"""Count the bytes of all tensors that are alive while torch runs, operation by operation."""

import weakref
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._C import _get_dispatch_mode as active
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_iter

from ...core.storages import storage_id
from .moments import Event, Limit, Moment, Stage
from .workspaces import room_of

try:
    from torch._C._dynamo.eval_frame import _FrameAction as FrameAction
    from torch._C._dynamo.eval_frame import _FrameExecStrategy as FrameExecStrategy
    from torch._C._dynamo.eval_frame import set_code_exec_strategy

    MARKABLE = True
except ImportError:  # how code is marked is torch's own affair
    MARKABLE = False

if TYPE_CHECKING:
    from .quick_fakes import QuickFakes

__all__ = ["Tracker", "storages"]

DEVICE = torch.ops.prim.device.default
FAKE = torch._C._TorchDispatchModeKey.FAKE


class Tracker(TorchDispatchMode):
    """Sum up, within `with`, the bytes of the storages that operations make, until they are freed.

    Works on real, fake and meta tensors alike, as storages are asked for their size only.

    Args:
        known: tensors that exist before. They do not count; when they are freed, their bytes are subtracted.
        device: "cuda" or "cpu" also counts what some operations take there for themselves while they run.
        limit: on operations, and whether all of them are noted.
        fakes: within which it works, to be asked first what an operation makes; None asks torch.
    """

    _stage: Stage

    def __init__(
        self,
        known: Iterable[Tensor] = (),
        device: str | None = None,
        limit: Limit = Limit(),  # noqa: B008 (it is frozen)
        fakes: "QuickFakes | None" = None,
    ):
        super().__init__()
        self._fakes = fakes
        self.operations, self._limit, self._events = 0, limit, list[tuple[str, int, int, int]]()
        self.moments: list[Moment] = []
        self._room_of, self._stage, self._after = room_of(device), ("start",), 0
        self._alive, self._top, self._top_age = [0, 0], (0, 0), 0
        self._refs: dict[int, weakref.ref] = {}
        self._born: dict[int, int] = {}  # when each storage was made: its number among all
        self._age = 0
        for storage in (s for tensor in known for s in storages(tensor)):
            self._note(storage, 0)
        self._alive = [0, 0]
        self.settle()

    @property
    def now(self) -> int:
        """Return the bytes that are alive now."""
        return sum(self._alive)

    @property
    def peak(self) -> int:
        """Return the most bytes that were alive at once."""
        return int(max([sum(self._top), *(m.total for m in self.moments)]))

    @property
    def after(self) -> bool:
        """Return whether the forward pass is over."""
        return bool(self._after)

    def enter(self, stage: Stage, backward: bool = False) -> None:
        """End the interval and begin `stage`; with `backward`, the forward pass is over from now on."""
        self.end()
        self._stage, self._after = stage, int(backward or self._after)

    def end(self, done: str | None = None, gradient: Tensor | None = None) -> None:
        """End the interval and note its Moment; `gradient`, if given, is that of parameter `done`, now complete."""
        own = [] if gradient is None else storages(gradient)
        born = [(self._born.get(storage_id(storage), 0), storage.nbytes()) for storage in own]

        def complete(age: int) -> int:
            return sum(size for when, size in born if when <= age)

        events = tuple(Event(name, one, other, complete(age)) for name, one, other, age in self._events)
        left = (self._alive[0], self._alive[1])
        self.moments.append(Moment(self._stage, *self._top, done, complete(self._top_age), left, events))
        self.settle()

    def settle(self) -> None:
        """Forget the interval's maximum until now: begin it anew with what is alive at this moment."""
        self._events.clear()
        self._log("", 0)
        self._keep(0)

    def bump(self, size: int) -> None:
        """Count `size` more bytes as alive for an instant."""
        if self.now + size > sum(self._top):
            self._keep(size)

    def _log(self, name: str, size: int) -> None:
        if self._limit.recorded:
            self._events.append((name, self._alive[0], self._alive[1] + size, self._age))

    def _keep(self, size: int) -> None:
        self._top, self._top_age = (self._alive[0], self._alive[1] + size), self._age

    def watch(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is freed; a storage that is counted already stays counted once."""
        for storage in storages(tensor):
            self._note(storage, self._after)
        self.bump(0)

    def _note(self, storage: torch.UntypedStorage, kind: int) -> None:
        key = storage_id(storage)
        if key not in self._refs:
            self._refs[key] = weakref.ref(storage, self._forget(key, storage.nbytes(), kind))
            self._alive[kind] += storage.nbytes()
            self._age += 1
            self._born[key] = self._age

    def _forget(self, key: int, size: int, kind: int) -> Callable[[object], None]:
        def gone(_: object) -> None:
            self._alive[kind] -= size
            del self._refs[key], self._born[key]

        return gone

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False, so that torch wraps nothing around every operation: the code is marked, where it can be."""
        return not MARKABLE

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is DEVICE:
            return vars(args[0]).get("_fake_device") or function(*args)
        wrapper = next((t for t in types if _wraps(t)), None)
        if wrapper is not None:  # what it does inside counts, too
            with self:
                return wrapper.__torch_dispatch__(function, types, args, kwargs)
        if (room := self._room_of(function)) is not None and (size := room(args, kwargs)):
            self.bump(size)
            self._log(f"within {function}", size)
        self.operations += 1
        if self._limit.operations is not None and self.operations > self._limit.operations:
            raise Limit.Reached
        fakes = self._fakes
        out = NotImplemented if fakes is None or active(FAKE) is not fakes else fakes.known_of(function, args, kwargs)
        if out is NotImplemented:
            out = function(*args, **kwargs)
        for tensor in (out,) if isinstance(out, Tensor) else tree_iter(out):
            if isinstance(tensor, Tensor):
                self.watch(tensor)
        self._log(str(function) if self._limit.recorded else "", 0)
        return out

    # Whatever torch.compile is about, operations are counted as they come.
    if MARKABLE:
        set_code_exec_strategy(__torch_dispatch__.__code__, FrameExecStrategy(FrameAction.SKIP, FrameAction.SKIP))


def storages(tensor: Tensor) -> list[torch.UntypedStorage]:
    """Return the storage of a tensor; of a subclass made of several tensors, the storages of all of them."""
    if _wraps(type(tensor)) and is_traceable_wrapper_subclass(tensor):
        return [s for name in tensor.__tensor_flatten__()[0] for s in storages(getattr(tensor, name))]
    return [tensor.untyped_storage()]


@cache
def _wraps(kind: type) -> bool:
    return hasattr(kind, "__tensor_flatten__") and kind.__name__ != "FakeTensor"
