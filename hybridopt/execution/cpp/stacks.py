"""Stacks of matrices, as those of experts: a kernel of a rule with rounds takes each matrix by itself."""

from collections.abc import Sequence
from math import prod

from torch import Tensor

from ...policy.job import Job
from ..printing.cpp.rounds import RoundsLayout
from .layouts import Layout, sizes_of

__all__ = ["cut", "matrices", "places"]


def matrices(job: Job, layout: Layout) -> int:
    """Return how many matrices a kernel takes a parameter for: those of its stack, or one.

    Args:
        job: the update.
        layout: of its kernel.
    """
    return prod(job.shape[:-2]) if isinstance(layout, RoundsLayout) else 1


def places(job: Job, layout: Layout, row: int = 0) -> list[tuple[int, int, int, int]]:
    """Return what a kernel is told of the size of each of these matrices.

    Args:
        job: the update.
        layout: of its kernel.
        row: of the whole parameter, where this is a part of it.

    Returns:
        Rows, columns, how many of them are chosen, and the rows that come before, by which random bits go.
    """
    if not isinstance(layout, RoundsLayout):
        return [(*sizes_of(job, layout), row)]
    rows, width = job.shape[-2:]
    return [(rows, width, 0, row + i * rows) for i in range(matrices(job, layout))]


def cut(x: Tensor, count: int) -> Sequence[Tensor]:
    """Return the parts of a tensor that belong to each of `count` matrices, flat; of one the tensor as it is."""
    return (x,) if count == 1 else x.view(count, x.numel() // max(1, count)).unbind()
