"""Which memory a tensor lies in: tensors that share it have the same storage, and so the same id of it."""

import torch
from torch import Tensor

__all__ = ["same_storage", "storage_id"]


def storage_id(of: Tensor | torch.UntypedStorage) -> int:
    """Return a number that all tensors of one storage have in common, as long as one of them is alive.

    It is the address of torch's own object, since addresses of data tell nothing: those of fake tensors, meta tensors
    and freed storages are 0, and `untyped_storage()` makes a new Python object at every call.
    """
    storage = of.untyped_storage() if isinstance(of, Tensor) else of
    return int(storage._cdata)


def same_storage(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors lie in the same memory, wherever in it."""
    return storage_id(one) == storage_id(other)
