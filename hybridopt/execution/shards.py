"""Parameters sharded by FSDP2 (`fully_shard`): every rank updates its own rows."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from ..core.contracts import Slot
from ..core.errors import HybridOptError
from ..core.registry import title
from ..policy.job import Job, sliceable

__all__ = ["cut", "like", "local", "place"]


def local(x: Tensor) -> Tensor:
    """Return this rank's shard of a DTensor; any other tensor as it is."""
    return x.to_local() if hasattr(x, "to_local") else x


def cut(name: str, job: Job, p: Tensor) -> Job:
    """Return the job of this rank's rows of a parameter.

    Args:
        name: of the parameter.
        job: of the whole parameter.
        p: the parameter, a DTensor where it is sharded; for any other `job` is returned.

    Raises:
        HybridOptError: the rows cannot be updated without those of other ranks.
    """
    if not hasattr(p, "to_local"):
        return job
    t, part, at = job.treatment, job.part, _placements(p)
    if t.probed:
        raise HybridOptError(
            f"parameter {name!r} (shape {tuple(p.shape)}) is sharded as {at}, and zeroth-order training "
            "shifts whole weights; train it on replicas (each rank its own batch: only losses are exchanged), or by "
            "backprop"
        )
    by_rows = all(x.is_replicate() or x.is_shard(0) for x in at) and sliceable(job)
    chosen_alike = part.disjoint or job.low is None  # not by looking at gradients
    if not (by_rows and chosen_alike and all(rule.local for _, rule in job.rules)):
        raise HybridOptError(
            f"parameter {name!r} (shape {tuple(p.shape)}) is sharded as {at}, and its treatment (full="
            f"{title(type(t.full))}, free={title(type(t.free))}, split={title(type(t.split))}, codec="
            f"{title(type(t.codec))}) needs more than one shard; take elementwise rules (adamw, lion, sgd), "
            "split='columns' or 'block', codec fp32 or bf16, and shards along dimension 0"
        )
    return replace(job, shape=(len(local(p)), *job.shape[1:]))


def like(x: Tensor, p: Tensor, slot: Slot) -> Tensor:
    """Turn state of this rank's rows into a DTensor, sharded as its parameter is.

    Args:
        x: the state of this rank's rows.
        p: the parameter.
        slot: what the whole parameter declares. State of its shape, the same on all ranks, is returned as it is.
    """
    if not hasattr(p, "to_local") or tuple(x.shape) == slot.shape:
        return x
    strides = [1]
    for n in reversed(slot.shape[1:]):
        strides.insert(0, strides[0] * n)
    options = {"run_check": False, "shape": slot.shape, "stride": tuple(strides)}
    data: Any = p.data
    return type(data).from_local(x, data.device_mesh, data.placements, **options)


def place(p: Tensor) -> tuple[int, ...]:
    """Return the mesh coordinates of this rank's shard, equal on all ranks that hold it; () if `p` is not sharded."""
    if not hasattr(p, "to_local"):
        return ()
    data: Any = p
    at = data.device_mesh.get_coordinate()
    return tuple(i for i, x in zip(at, _placements(p), strict=True) if x.is_shard())


def _placements(p: Any) -> tuple:
    """Return how a DTensor is placed along every dimension of its mesh."""
    return p.placements
