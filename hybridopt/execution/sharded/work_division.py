"""How the update of a sharded parameter is carried out: where its rows lie, by rounds of all ranks, or by one rank."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.contracts import Draw, Part, Slot, Store
from ...parts.splits.empty import Empty
from ...parts.splits.whole import Whole
from ...policy.job import Job, declare, sliceable, with_elements
from ..state import allocate
from .rows import RankRows, part_of

__all__ = ["LOCAL", "ROUNDS", "WHOLE", "Share", "kept", "made", "own", "way_of"]

LOCAL, ROUNDS, WHOLE = "local", "rounds", "whole"
ORDER = (LOCAL, ROUNDS, WHOLE)
VECTORS, HEAVY = 4, 32  # numbers a row and column, and a share of the elements, up to which all ranks keep state


@dataclass(frozen=True)
class Share:
    """What this rank does for a sharded parameter, the same in all windows.

    Args:
        way: "local", every rank updates its own rows; "rounds", it does, and what rules find out of the whole matrix
            goes round in between; "whole", one rank gets all rows, updates them, and gives them back.
        rows: who has which.
        owner: the rank of the group that updates the whole.
    """

    way: str
    rows: RankRows
    owner: int = 0

    @property
    def owns(self) -> bool:
        """Return whether this rank updates the whole."""
        return self.way == WHOLE and self.rows.rank == self.owner


def way_of(job: Job, store: Store | None, rows: RankRows, draw: Draw) -> str:
    """Return how a parameter is updated, in all windows alike, so that its state may stay where it is.

    Args:
        job: of the whole parameter in any window.
        store: writes its weight.
        rows: who has which.
        draw: of any window.
    """
    ways = [_way(replace(job, part=part), store, rows) for part in _parts(job, draw)]
    return max(ways, key=ORDER.index)


def own(job: Job, share: Share) -> Job:
    """Return the job that is carried out on this rank: of its rows, or of all of them."""
    return replace(job, shape=part_of(share.rows, job.shape, share.rows.rank)) if share.way == LOCAL else job


def kept(job: Job, share: Share) -> dict[str, Slot]:
    """Return the raw state tensors as this rank keeps them, by name.

    State that goes with the elements is cut as the parameter is; any other is the same on all ranks. Where one rank
    updates the whole it keeps all of it, and the others nothing (tensors on meta).
    """
    slots = declare(job)
    if share.way == WHOLE:
        return slots
    cut = with_elements(job)
    return {
        k: replace(s, shape=part_of(share.rows, s.shape, share.rows.rank)) if k in cut else s for k, s in slots.items()
    }


def made(name: str, job: Job, share: Share, device: torch.device) -> Tensor:
    """Make a raw state tensor of zeros: a DTensor where it is cut as the parameter is.

    Args:
        name: of the tensor.
        job: of the whole parameter.
        share: what this rank does for it.
        device: of its shard.
    """
    slot = kept(job, share)[name]
    if share.way == WHOLE:
        return allocate(slot, device if share.owns else torch.device("meta"))
    x = allocate(slot, device)
    return spread(x, declare(job)[name].shape, share.rows) if name in with_elements(job) else x


def spread(x: Tensor, shape: tuple[int, ...], rows: RankRows) -> Tensor:
    """Return the DTensor of which `x` is this rank's part.

    Args:
        x: rows of this rank.
        shape: of the whole.
        rows: who has which.
    """
    from torch.distributed.tensor import DTensor

    strides = [1]
    for n in reversed(shape[1:]):
        strides.insert(0, strides[0] * n)
    whole: Tensor = DTensor.from_local(
        x, rows.mesh, rows.placements, run_check=False, shape=torch.Size(shape), stride=tuple(strides)
    )
    return whole


def _parts(job: Job, draw: Draw) -> list[Part]:
    """Return one part of every kind that is in force in some window."""
    split = job.treatment.split
    if split.by_turns:
        return [Whole(), Empty()]
    if not callable(split.density):
        return [job.part]
    some = [replace(split, density=density).at(draw, job.shape) for density in (0.0, 0.5, 1.0)]  # type: ignore[type-var]
    return [job.part, *some]


def _way(job: Job, store: Store | None, rows: RankRows) -> str:
    """Return the way with the least traffic in which one window's update gives what one process gives."""
    if rows.ranks == 1:
        return LOCAL
    if not all(rule.local for _, rule in job.rules):
        whole_rows = len(job.shape) == 2 and job.shape[0] == rows.total and sliceable(job)
        return ROUNDS if whole_rows and not _heavy(job) and _alike(job, store, rows) else WHOLE
    return LOCAL if sliceable(job.in_blocks) and _alike(job, store, rows) else WHOLE


def _heavy(job: Job) -> bool:
    """Return whether a rule keeps so much for the whole matrix that not every rank should have it."""
    settled = sum(math.prod(slot.shape) for name, slot in job.slots.items() if name not in job.elementwise)
    return settled > max(VECTORS * sum(job.shape), math.prod(job.shape) // HEAVY)


def _alike(job: Job, store: Store | None, rows: RankRows) -> bool:
    """Return whether rows of a rank see the same split, state, blocks and random numbers as those of one process."""
    part = job.part
    if part.by_gradient or not _whole_groups(job, store, rows):
        return False
    if len(job.shape) < 2:
        at_random = store is not None and store.random and job.in_blocks is job
        if at_random or not (part.covers or part.empty):
            return False
    return _same_blocks(job, rows)


def _whole_groups(job: Job, store: Store | None, rows: RankRows) -> bool:
    """Return whether what the store writes together never lies on two ranks."""
    block, width = 1 if store is None else store.block, math.prod(job.shape[1:])
    ends = (end for _, end in map(rows.cut, range(rows.ranks)))
    return block == 1 or all(end == rows.total or end * width % block == 0 for end in ends)


def _same_blocks(job: Job, rows: RankRows) -> bool:
    """Return whether blocks of the codec end where ranks do, and codes and their scales are cut at the same rows."""
    if not job.treatment.codec.block or job.low is None:
        return True
    whole, cut, row, block = declare(job), with_elements(job), math.prod(job.low[1:]), job.treatment.codec.block
    for rank in range(rows.ranks):
        first, end = rows.cut(rank)
        if first == end:
            continue
        if first * row % block:
            return False
        mine = replace(job, shape=(end - first, *job.shape[1:]))
        if (mine.in_blocks is mine) != (job.in_blocks is job):
            return False
        there = declare(mine)
        if there.keys() != whole.keys():
            return False
        if any(there[k].shape != part_of(rows, whole[k].shape, rank) for k in cut):
            return False
    return True
