"""Models whose parameters are sharded over ranks (FSDP2's `fully_shard`): every rank has some rows of each."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn

from ...core.collective_errors import meeting
from ...core.contracts import CodedWeight
from ...core.errors import HybridOptError

__all__ = [
    "as_cut",
    "check_plain",
    "class_of",
    "coded",
    "codes_of",
    "cuts",
    "gathered",
    "is_sharded",
]
__all__ += ["local", "rank_of", "reshard_", "share_count", "sharded_tensors", "span", "units", "whole", "write_"]


def is_sharded(x: Any) -> bool:
    """Return whether `x` is a DTensor."""
    return hasattr(x, "full_tensor")


def local(x: Any) -> Any:
    """Return this rank's shard of a sharded tensor; any other tensor as it is."""
    own: Tensor = x.to_local() if is_sharded(x) else x
    return own


def coded(x: Any) -> CodedWeight | None:
    """Return a weight that is kept as codes that are trained, or this rank's rows of one; None for all others."""
    own = None if type(x) is nn.Parameter else local(x)
    return own if isinstance(own, CodedWeight) else None


def codes_of(x: Any) -> CodedWeight:
    """Return a weight that is known to be kept as codes that are trained, or this rank's rows of it."""
    own = coded(x.detach())
    assert own is not None
    return own


def whole(x: Any) -> Tensor:
    """Return a sharded tensor in one piece, on every rank; all have to call this. Any other tensor stays as it is."""
    if not is_sharded(x):
        return x
    own, kind = coded(x), x.device_mesh.device_type
    if own is not None:
        sent, told = own.fsdp_pre_all_gather(x.device_mesh)
        found: Tensor = own.fsdp_post_all_gather(gathered(x, sent), told, own.dtype)[0].first_rows(len(x))
        return found
    with meeting("see a whole tensor"):
        return (x if x.device.type == kind else x.to(kind)).full_tensor()  # offloaded shards meet where ranks do


def gathered(x: Any, parts: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Return what all ranks have of some tensors that are as long on each, one after the other.

    Args:
        x: a sharded tensor, whose ranks come here.
        parts: of its shard.
    """
    mesh, along, found = x.device_mesh, _along(x), []
    for part in parts if along is not None else ():
        near = part.to(mesh.device_type) if part.device.type != mesh.device_type else part
        out = near.new_empty(len(near) * mesh.size(along), *near.shape[1:])
        with meeting("see a whole tensor"):
            distributed.all_gather_into_tensor(out, near.contiguous(), group=mesh.get_group(along))
        found.append(out)
    return tuple(found if along is not None else parts)


def cuts(total: int, ranks: int) -> list[tuple[int, int]]:
    """Return the first row of every rank, and the one after its last: as many for each, less for the last ones."""
    each = -(-total // ranks)
    return [(min(i * each, total), min((i + 1) * each, total)) for i in range(ranks)]


def span(x: Any) -> tuple[int, int]:
    """Return the first row of a sharded tensor that this rank has, and the one after its last."""
    return cuts(len(x), share_count(x))[rank_of(x)]


def rank_of(x: Any) -> int:
    """Return which of the ranks that the rows of a sharded tensor are cut over this one is."""
    along = _along(x)
    return 0 if along is None else int(x.device_mesh.get_local_rank(along))


def share_count(x: Any) -> int:
    """Return over how many ranks the rows of a sharded tensor are cut."""
    along = _along(x)
    return 1 if along is None else int(x.device_mesh.size(along))


def as_first(values: Tensor, x: Any) -> Tensor:
    """Return what the first rank of a sharded tensor's mesh has of a tensor that all have; all have to come here.

    Args:
        values: of one shape and dtype on all ranks.
        x: the sharded tensor.
    """
    from torch.distributed.tensor import Replicate, distribute_tensor

    mesh = x.device_mesh
    with meeting("agree on what is drawn"):
        found: Any = distribute_tensor(values.to(mesh.device_type), mesh, [Replicate()] * mesh.ndim)
    own: Tensor = found.to_local().to(values.device)
    return own


def as_cut(part: Tensor, x: Any) -> Tensor:
    """Return a DTensor of the shape of a sharded tensor, cut as that is.

    Args:
        part: what this rank has of it.
        x: the sharded tensor.
    """
    from torch.distributed.tensor import DTensor

    told: dict[str, Any] = {"shape": x.shape, "stride": x.stride(), "run_check": False}
    found: Tensor = DTensor.from_local(part, x.device_mesh, x.placements, **told)
    return found


def _along(x: Any) -> int | None:
    """Return the dimension of the mesh that a sharded tensor is cut along; None: every rank has all of it."""
    return next((i for i, each in enumerate(x.placements) if each.is_shard()), None)


@torch.no_grad()
def write_(x: Tensor, values: Tensor) -> None:
    """Write a whole tensor that every rank has to what this rank has of `x`, its part or all; nothing is sent."""
    if not is_sharded(x):
        x.copy_(values)
        return
    from torch.distributed.tensor import distribute_tensor

    live: Any = x.detach()
    if coded(live) is not None:
        first, end = span(live)
        live.to_local().copy_(values[first:end])
        return
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


def units(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the modules that `fully_shard` was called on, by name."""
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    found = model.named_modules() if fsdp is not None else ()
    return ((name, module) for name, module in found if isinstance(module, fsdp.FSDPModule))


def reshard_(model: nn.Module) -> None:
    """Free the whole parameters that FSDP2 keeps after a forward pass: the shards are what is trained."""
    for _, unit in units(model):
        unit.reshard()


def check_plain(model: nn.Module, what: str) -> None:
    """Raise HybridOptError for a sharded model; `what` says what cannot be done with it, and what to do instead."""
    for name, p in model.named_parameters():
        if is_sharded(p):
            raise HybridOptError(f"parameter {name!r} is sharded (fully_shard): {what}")
