"""State of sharded parameters in a state dict: whole shapes, cut over the ranks, whoever keeps what in between."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ...execution.sharded.collectives import exchange
from ...execution.sharded.rows import RankRows
from ...execution.sharded.work_division import WHOLE, Share, spread
from ...model.fsdp.sharded_tensors import is_sharded, whole
from ...policy.job import Job, with_elements
from ..groups.tags import named
from ..windows.windows import Windows

__all__ = ["read", "write"]

State = dict[str, Any]


def write(saved: State, live: Iterable[dict], windows: Windows) -> None:
    """Cut the state that one rank keeps for all over the ranks, as torch.distributed.checkpoint wants it.

    Everything is in the same order on all ranks, as those who read it gather one tensor after the other. All ranks
    have to come here. What the optimizer itself keeps stays as it is.

    Args:
        saved: the state dict; changed in place.
        live: the param groups of the optimizer, in the same order.
        windows: know who keeps what.
    """
    states = saved["state"]
    saved["state"] = {i: states[i] for group in saved["param_groups"] for i in group["params"] if i in states}
    for group, mine in zip(saved["param_groups"], live, strict=True):
        for index, (name, p) in zip(group["params"], named(mine), strict=True):
            share, state = windows.of(name, p).share, saved["state"].get(index)
            if state and share is not None and share.way == WHOLE:
                saved["state"][index] = {
                    key: _cut(state[key], share, p.device) if isinstance(state[key], Tensor) else state[key]
                    for key in sorted(state)
                }


def read(key: str, value: Tensor, job: Job, share: Share | None) -> Tensor:
    """Return a tensor of a state dict as this rank checks it: whole, or as the DTensor that is kept.

    Args:
        key: of the tensor.
        value: whole, or a DTensor, of which all ranks have to come here.
        job: of the whole parameter.
        share: what this rank does for it; None for a plain one.
    """
    if share is None:
        return value
    if share.way == WHOLE or key not in with_elements(job):
        return whole(value)
    return value if is_sharded(value) or not value.ndim else _rows(value, share.rows)


def _rows(value: Tensor, rows: RankRows) -> Tensor:
    first, end = rows.cut(rows.rank, len(value))
    return spread(value[first:end].contiguous(), tuple(value.shape), rows)


def _cut(x: Tensor, share: Share, device: torch.device) -> Tensor:
    """Return a tensor that one rank has, and of which the others know the shape, as a DTensor; a number as it is."""
    rows, shape = share.rows, tuple(x.shape) or (1,)
    spans = [(0, 1) if not x.ndim else rows.cut(rank, shape[0]) for rank in range(rows.ranks)]
    parts = [[x.reshape(shape)[a:b]] if share.owns else [] for a, b in spans]
    first, end = spans[rows.rank]
    mine = torch.empty((end - first, *shape[1:]), dtype=x.dtype, device=device)
    size = mine.numel() * mine.element_size()
    came = exchange(parts, [size if rank == share.owner else 0 for rank in range(rows.ranks)], rows)[share.owner]
    if size:
        mine.view(-1).view(torch.uint8).copy_(came)
    return spread(mine, shape, rows) if x.ndim else mine.view(())
