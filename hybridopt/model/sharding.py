"""Models whose parameters are sharded over ranks (FSDP2's `fully_shard`): every rank has some rows of each."""

import sys
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import HybridOptError
from ..core.meeting import meeting

__all__ = [
    "abandon_",
    "check_plain",
    "class_of",
    "is_sharded",
    "local",
    "reshard_",
    "sharded_tensors",
    "whole",
    "write_",
]


def is_sharded(x: Any) -> bool:
    """Return whether `x` is a DTensor."""
    return hasattr(x, "full_tensor")


def local(x: Any) -> Tensor:
    """Return this rank's shard of a sharded tensor; any other tensor as it is."""
    own: Tensor = x.to_local() if is_sharded(x) else x
    return own


def whole(x: Any) -> Tensor:
    """Return a sharded tensor in one piece, on every rank; all have to call this. Any other tensor stays as it is."""
    if not is_sharded(x):
        return x
    kind = x.device_mesh.device_type
    with meeting("see a whole tensor"):
        return (x if x.device.type == kind else x.to(kind)).full_tensor()  # offloaded shards meet where ranks do


@torch.no_grad()
def write_(x: Tensor, values: Tensor) -> None:
    """Write a whole tensor that every rank has to what this rank has of `x`, its part or all; nothing is sent."""
    if not is_sharded(x):
        x.copy_(values)
        return
    from torch.distributed.tensor import distribute_tensor

    live: Any = x.detach()
    cut = distribute_tensor(values, live.device_mesh, live.placements, src_data_rank=None)
    live.to_local().copy_(cut.to_local())


def sharded_tensors(model: nn.Module) -> list[Tensor]:
    """Return the sharded parameters and buffers of a model, in the same order on all ranks."""
    return [x for x in (*model.parameters(), *model.buffers()) if is_sharded(x)]


def class_of(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module as it was made: `fully_shard` gives those that it is called on one of their own."""
    kind = type(module)
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    made: type[nn.Module] = kind
    if fsdp is not None and kind.__bases__[0] is fsdp.FSDPModule and len(kind.__bases__) == 2:
        made = kind.__bases__[1]
    return made


def reshard_(model: nn.Module) -> None:
    """Free the whole parameters that FSDP2 keeps after a forward pass: the shards are what is trained."""
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    for module in model.modules() if fsdp is not None else ():
        if isinstance(module, fsdp.FSDPModule):
            module.reshard()


def abandon_(model: nn.Module) -> None:
    """Let FSDP2 forget a forward pass that has begun, and that an error has ended: it would go on with it in the next.

    Older torch cannot, and keeps whole layers then.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    inner: set[nn.Module] = set()
    for module in model.modules() if fsdp is not None else ():
        if isinstance(module, fsdp.FSDPModule) and module not in inner:
            inner |= set(module.modules())
            if hasattr(module, "reset_iter_state"):
                module.reset_iter_state()
    reshard_(model)


def check_plain(model: nn.Module, what: str) -> None:
    """Raise HybridOptError for a sharded model; `what` says what cannot be done with it, and what to do instead."""
    for name, p in model.named_parameters():
        if is_sharded(p):
            raise HybridOptError(f"parameter {name!r} is sharded (fully_shard): {what}")
