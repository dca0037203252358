"""Updates whose rules look at a whole matrix in rounds: every rank has its rows, what is found goes round in between.

Rows stay where they are. After each look one reduction carries, for all parameters at once, the sums of the columns
and the numbers of the rows (every rank puts its own into a vector of zeros), so `settle` sees on every rank what it
sees in one process: numbers by row to the bit, sums added up in another order.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...policy.job import Job
from ..conditional_updates import guarded, written
from ..slices import Slice, cut, some_rows
from ..state import seeds
from ..update import Looked, Now, join, look, settle, write
from ..update_task import Task
from .collectives import add_
from .rows import RankRows

__all__ = ["run_rounds"]

MOST = 1 << 24  # numbers that are on their way, or stay until the weights are written, at one time


@dataclass(eq=False)
class _Work:
    """A task, with its slices on this rank and what the rounds so far have found.

    Args:
        task: of this rank's rows; its job is that of the whole matrix.
        rows: who has which.
        pieces: slices of this rank's rows.
        now: the numbers of the step; seeds are those of the whole matrix.
    """

    task: Task
    rows: RankRows
    pieces: list[Slice]
    now: Now

    @property
    def job(self) -> Job:
        """Return the job of the whole matrix."""
        return self.task.job


def run_rounds(work: Iterable[tuple[Task, RankRows]]) -> None:
    """Carry out tasks of rows, each with who has which; ranks must come with the same tasks in the same order."""
    groups: dict[int, list[tuple[Task, RankRows]]] = {}
    for task, rows in work:
        groups.setdefault(id(rows.group), []).append((task, rows))
    for same in groups.values():
        for batch in _batches(same):
            with ExitStack() as stack:
                for task, _ in batch:
                    stack.enter_context(guarded(task.sound, partial(written, task.param, task.raw)))
                _together([_begun(task, rows) for task, rows in batch])


def _batches(work: Sequence[tuple[Task, RankRows]]) -> Iterator[list[tuple[Task, RankRows]]]:
    """Cut work so that what goes round at one time is bounded; alike on all ranks, as only whole shapes count."""
    batch: list[tuple[Task, RankRows]] = []
    size = 0
    for task, rows in work:
        job = task.job
        settled = sum(math.prod(slot.shape) for name, slot in job.slots.items() if name not in job.elementwise)
        own = sum(job.shape) + settled
        if batch and size + own > MOST:
            yield batch
            batch, size = [], 0
        batch.append((task, rows))
        size += own
    if batch:
        yield batch


def _begun(task, rows):
    pieces = some_rows(task.param, task.grad, task.raw, task.job, task.key, rows.span[0], task.store.block)
    now = task.now()
    return _Work(task, rows, pieces, Now(**(vars(now) | {"seeds": seeds(task.job, task.key)})))


def _together(batch: list[_Work]) -> None:
    for i in range(max(one.job.rounds for one in batch)):
        looking = [one for one in batch if i < one.job.rounds]
        found = [join([look(i, *s.given, one.job, cut(one.now, s)) for s in one.pieces], 0) for one in looking]
        _meet(looking, found)
        for one, seen in zip(looking, found, strict=True):
            one.now = settle(i, seen, one.task.raw, one.job, one.now)
    for one in batch:
        for s in one.pieces if len(one.task.param) else ():
            write(*s.given, one.job, one.task.store, cut(one.now, s))


def _meet(batch: list[_Work], found: list[Looked]) -> None:
    """Join what every rank has found, in place: rows to all rows, sums to sums; one reduction for each dtype."""
    by_dtype: dict[torch.dtype, list[tuple[dict[str, Tensor], str, Tensor]]] = {}
    for one, looked in zip(batch, found, strict=True):
        first, end = one.rows.span
        for rows, sums in looked.values():
            for name, x in rows.items():
                wide = x.new_zeros(one.rows.total, *x.shape[1:])
                wide[first:end] = x
                by_dtype.setdefault(x.dtype, []).append((rows, name, wide))
            for name, x in sums.items():
                by_dtype.setdefault(x.dtype, []).append((sums, name, x))
    for parts in by_dtype.values():
        flat = torch.cat([x.reshape(-1) for _, _, x in parts])
        add_(flat, batch[0].rows)
        ends = flat.split([x.numel() for _, _, x in parts])
        for (where, name, x), now in zip(parts, ends, strict=True):
            where[name] = now.view(x.shape)
