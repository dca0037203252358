"""What a kernel is told of the columns or rows that a split has chosen."""

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ...policy.job import Job

__all__ = ["chosen"]

_known: Any = WeakTensorKeyDictionary()  # by the tensor of indices: form, a copy of it, and what the kernel is told


def chosen(index: Tensor, job: Job, joined: int = 1) -> Tensor:
    """Return which columns are chosen, a bit each, or at which place each row is; made anew when that changes.

    Args:
        index: of the columns or rows, int64, rising.
        job: of the parameter.
        joined: rows that the kernel takes for one, as `layouts.joined` says.
    """
    known, form = _known.get(index), (job.shape, joined)
    if known is None or known[0] != form or not known[1].equal(index):  # its version does not count every write
        made = _mask(index, job.shape[-1], joined) if job.part.columns else _rows(index, job)
        _known[index] = known = form, index.clone(), made
    return known[2]


def _mask(index: Tensor, width: int, joined: int) -> Tensor:
    """Return a bit for every column of joined rows, int16 [columns / 16, rounded up]."""
    here, all_ = index.device, width * joined
    row = torch.zeros(width, dtype=torch.int32, device=here).index_fill_(0, index, 1)
    chosen = torch.zeros(-(-all_ // 16) * 16, dtype=torch.int32, device=here)
    chosen[:all_].view(joined, width).copy_(row)
    return (chosen.view(-1, 16) << torch.arange(16, dtype=torch.int32, device=here)).sum(1).to(torch.int16)


def _rows(index: Tensor, job: Job) -> Tensor:
    """Return the place of every row among the chosen ones, -1 for the others: int64 [rows of all matrices]."""
    matrices, rows = prod(job.shape[:-2]), job.shape[-2]
    here = index.device
    place = torch.full((rows,), -1, device=here).index_copy_(0, index, torch.arange(len(index), device=here))
    return (place + (place >= 0) * (torch.arange(matrices, device=here)[:, None] * len(index))).flatten()
