"""What a kernel is told of the columns or rows that a split has chosen."""

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ...policy.job import Job

__all__ = ["chosen"]

_known: Any = WeakTensorKeyDictionary()  # by the tensor of indices: shape, a copy of it, and what the kernel is told


def chosen(index: Tensor, job: Job) -> Tensor:
    """Return which columns are chosen, a bit each, or at which place each row is; made anew when that changes.

    Args:
        index: of the columns or rows, int64, rising.
        job: of the parameter.
    """
    known = _known.get(index)
    if known is None or known[0] != job.shape or not known[1].equal(index):  # its version does not count every write
        made = (_mask if job.part.columns else _rows)(index, job)
        _known[index] = known = job.shape, index.clone(), made
    return known[2]


def _mask(index: Tensor, job: Job) -> Tensor:
    """Return a bit for every column, int16 [columns / 16, rounded up]."""
    chosen = torch.zeros(-(-job.shape[-1] // 16) * 16, dtype=torch.int32, device=index.device).index_fill_(0, index, 1)
    return (chosen.view(-1, 16) << torch.arange(16, dtype=torch.int32, device=index.device)).sum(1).to(torch.int16)


def _rows(index: Tensor, job: Job) -> Tensor:
    """Return the place of every row among the chosen ones, -1 for the others: int64 [rows of all matrices]."""
    matrices, rows = prod(job.shape[:-2]), job.shape[-2]
    here = index.device
    place = torch.full((rows,), -1, device=here).index_copy_(0, index, torch.arange(len(index), device=here))
    return (place + (place >= 0) * (torch.arange(matrices, device=here)[:, None] * len(index))).flatten()
