"""Any update, one parameter after the other, in slices of rows where that is possible."""

from collections.abc import Callable, Iterable, Sequence

import torch

from ...core.contracts import Backend
from ..slices import update_in_slices
from ..update_task import Task

__all__ = ["Eager"]


class Eager(Backend[Task]):
    """Call torch operation by operation, slice by slice: fits every task, and is asked last."""

    name = "eager"
    rank = 90
    in_blocks = True
    heeds_sound = True
    heeds_row = True

    def fits(self, task: Task) -> bool:
        """Return True."""
        return True

    def run(self, tasks: Iterable[Task]) -> None:
        """Carry out tasks one by one."""
        for task in tasks:
            update_in_slices(task)

    def tolerance(self, task: Task) -> float:
        """Return 0 where all parts go element by element; else sums and products of slices may differ by rounding."""
        t = task.job.treatment
        exact = t.full.local and t.free.local and task.job.part.disjoint
        return 0.0 if exact else 64 * torch.finfo(task.job.arithmetic).eps

    def temporaries(self, tasks: Sequence[Task], measured: Callable[[], int]) -> int:
        """Return what the largest slice takes, as measured."""
        return measured()
