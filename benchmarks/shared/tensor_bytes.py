"""Bytes of the tensors that an object keeps."""

from collections.abc import Iterable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, ModuleType

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

CLOSED = (type, ModuleType, FunctionType, BuiltinFunctionType)


def held(root: object, besides: Iterable[Tensor] = ()) -> int:
    """Return the bytes of all tensors reachable from `root` through containers and attributes, each storage once.

    Tensors that share memory with one in `besides` do not count.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in besides}
    storages = (tensor.untyped_storage() for tensor in tensors(root))
    return sum({s.data_ptr(): s.nbytes() for s in storages if s.data_ptr() not in known}.values())


def tensors(root: object) -> Iterator[Tensor]:
    """Yield every plain tensor reachable from `root`; of a tensor subclass, the tensors inside it."""
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
    """Return what an object directly consists of."""
    if isinstance(item, Tensor):
        inner: list[str] = item.__tensor_flatten__()[0] if is_traceable_wrapper_subclass(item) else []
        return [getattr(item, name) for name in inner]
    if isinstance(item, Mapping):
        return list(item.values())
    if isinstance(item, list | tuple | set | frozenset):
        return list(item)
    return [] if isinstance(item, CLOSED) else [getattr(item, "__dict__", None)]


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the memory behind the tensors in bytes; storage shared by several is counted once."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def state_tensors(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Yield every tensor that an optimizer keeps between steps."""
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def live(device: str, root: object) -> int:
    """Return the bytes of what is there: all of torch's on CUDA; on a CPU those of the tensors kept by `root`."""
    return torch.cuda.memory_allocated() if torch.device(device).type == "cuda" else held(root)
