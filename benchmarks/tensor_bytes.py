"""Bytes of tensors: what an object keeps, and what some work takes for a moment."""

import gc
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, ModuleType

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

CLOSED = (type, ModuleType, FunctionType, BuiltinFunctionType)


def held(root: object, besides: Iterable[Tensor] = ()) -> int:
    """Bytes of all tensors reachable from `root` through containers and attributes, each storage once.

    Tensors that share memory with one in `besides` do not count.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in besides}
    storages = (tensor.untyped_storage() for tensor in tensors(root))
    return sum({s.data_ptr(): s.nbytes() for s in storages if s.data_ptr() not in known}.values())


def tensors(root: object) -> Iterator[Tensor]:
    """Every plain tensor reachable from `root`; of a tensor subclass, the tensors inside it."""
    waiting, seen = [root], {}
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = item  # kept alive, so that no id is used twice
        if isinstance(item, Tensor) and not is_traceable_wrapper_subclass(item):
            yield item
        waiting += parts(item)


def parts(item: object) -> list:
    """What an object directly consists of."""
    if isinstance(item, Tensor):
        wrapper = is_traceable_wrapper_subclass(item)
        return [getattr(item, name) for name in item.__tensor_flatten__()[0]] if wrapper else []
    if isinstance(item, Mapping):
        return list(item.values())
    if isinstance(item, list | tuple | set | frozenset):
        return list(item)
    return [] if isinstance(item, CLOSED) else [getattr(item, "__dict__", None)]


class Peak:
    """The most bytes allocated within a `with` block beyond those allocated at its start: `extra` afterwards.

    On CUDA it is what the caching allocator says (max_memory_allocated). On CPU it is the highest running sum of
    what torch's allocator hands out and takes back (torch.profiler's memory events); buffers that a library gets past
    that allocator, such as stack arrays of a kernel, are not seen.
    """

    def __init__(self, device: str):
        self.device, self.extra = torch.device(device), 0

    def __enter__(self) -> "Peak":
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            with silence():
                self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True).__enter__()
        return self

    def __exit__(self, *error) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.extra = torch.cuda.max_memory_allocated(self.device) - self._before
            return
        with silence():
            self._profile.__exit__(*error)
        events = [e for e in self._profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        self.extra = highest(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))


@contextmanager
def silence() -> Iterator[None]:
    """Send what native code writes to standard error nowhere: the profiler announces every start and stop there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def highest(changes: Iterable[int]) -> int:
    """The largest running sum, at least 0."""
    total = top = 0
    for change in changes:
        total += change
        top = max(top, total)
    return top
