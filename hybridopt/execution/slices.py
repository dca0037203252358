"""The update slice by slice, so that its temporaries stay in the cache and never reach the size of the parameter."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import gcd

from torch import Tensor

from ..core.contracts import State
from ..core.numerics.rounding import Seeding
from ..policy.job import Job, declare, of_blocks, sliceable, with_elements
from .conditional_updates import guarded, state_of, written
from .state import seeds
from .update import Now, join, look, settle, update, write
from .update_task import Task

__all__ = ["ELEMENTS", "Slice", "cut", "elements", "rows_of", "slices", "some_rows", "update_in_slices"]

ELEMENTS = {"cpu": 1 << 17}  # 512 KiB of float32: a few temporaries fit into a core's caches
ELSEWHERE = 1 << 24  # on an accelerator a slice only bounds memory: of about ten temporaries


@dataclass(frozen=True)
class Slice:
    """Some rows of a parameter: [rows, width] of weight and gradient, their state, their seeds, the first row."""

    param: Tensor
    grad: Tensor
    raw: State
    seeds: Mapping[str, Seeding]
    row: int

    @property
    def given(self) -> tuple[Tensor, Tensor, State]:
        """Return weight, gradient and state; a `ProbeGradient` becomes a tensor only now."""
        grad = self.grad if isinstance(self.grad, Tensor) else self.grad.to(self.grad.dtype)
        return self.param, grad, self.raw


def elements(param: Tensor) -> int:
    """Return how many elements a slice of this parameter should have, by its device."""
    return ELEMENTS.get(param.device.type, ELSEWHERE)


def update_in_slices(task: Task) -> None:
    """Carry out `update`, slice by slice where every axis works element by element or row by row.

    A rule that must know the whole matrix looks at all its slices before the first is written. What a slice writes is
    put back where the task's `sound` is False on the device.
    """
    param, job, store, now = task.param, task.job, task.store, task.now()
    size = elements(param)
    if param.numel() <= size or not param.is_contiguous() or not sliceable(job):
        with guarded(task.sound, partial(written, param, task.raw)):
            (update if job.rounds else write)(param, task.grad, task.raw, job, store, now)
        return
    flat = not (job.rounds or job.basis or task.random)
    job = replace(job, shape=(param.numel(), 1)) if flat else job
    step = rows_of(size, job.shape[-1], store.block)
    first = task.row if task.before and not flat else 0
    for matrix, pieces in slices(param, task.grad, task.raw, job, task.key, step, first):
        one = now
        with guarded(task.sound, partial(_settled, pieces[0], matrix)):
            for i in range(job.rounds):
                found = join([look(i, *s.given, matrix, cut(one, s)) for s in pieces], 0)
                one = settle(i, found, pieces[0].raw, matrix, one)
        for s in pieces:
            with guarded(task.sound, partial(_written, s, matrix)):
                write(*s.given, matrix, store, cut(one, s))


def _settled(s: Slice, job: Job) -> list[Tensor]:
    """Return what `settle` writes."""
    moved = with_elements(job)
    return state_of({name: x for name, x in s.raw.items() if name not in moved})


def _written(s: Slice, job: Job) -> list[Tensor]:
    """Return what `write` writes of a slice."""
    moved = with_elements(job)
    return written(s.param, {name: x for name, x in s.raw.items() if name in moved})


def slices(
    param: Tensor, grad: Tensor, raw: State, job: Job, key: int, step: int, before: int = 0
) -> Iterator[tuple[Job, list[Slice]]]:
    """Cut a matrix, or every matrix of a stack, into slices of rows.

    Args:
        param: the weight, [*job.shape].
        grad: its gradient in the same shape.
        raw: its state.
        job: what is done to it.
        key: of the parameter in this step, for the seeds of the slices.
        step: rows of a slice.
        before: rows of the whole that come before, on other ranks.

    Yields:
        For every matrix the job of one matrix and its slices.
    """
    if len(job.shape) < 3:
        rows, width = _matrix(job)
        yield job, list(_rows(param.view(rows, width), grad.reshape(rows, width), raw, job, key, step, before))
        return
    matrix = replace(job, shape=job.shape[-2:])
    own = {k: slot.shape for k, slot in declare(matrix).items()}
    raw = {k: x if tuple(x.shape) == own[k] else x.view(-1, *own[k]) for k, x in raw.items()}
    params, grads = param.view(-1, *matrix.shape), grad.reshape(-1, *matrix.shape)
    for i in range(len(params)):
        mine = {k: x if tuple(x.shape) == own[k] else x[i] for k, x in raw.items()}
        yield matrix, list(_rows(params[i], grads[i], mine, matrix, key, step, before + i * matrix.shape[0]))


def rows_of(size: int, width: int, block: int) -> int:
    """Return how many rows make a slice of `size` elements that begins and ends between blocks of the store.

    Args:
        size: elements.
        width: elements of a row.
        block: of the store.
    """
    unit = block // gcd(block, width)
    return max(1, size // width // unit) * unit


def some_rows(param: Tensor, grad: Tensor, raw: State, job: Job, key: int, before: int, block: int = 1) -> list[Slice]:
    """Cut some rows of a matrix into slices whose `row` is that in the whole matrix; without rows there is one slice.

    Args:
        param: these rows of the weight, [rows, width].
        grad: of the gradient.
        raw: their state; what does not go with the elements is whole.
        job: of the whole matrix.
        key: of the parameter in this step.
        before: rows of the matrix that come before.
        block: of the store; slices begin between two of them.
    """
    step = rows_of(elements(param), max(1, param.shape[-1]), block)
    found = list(_rows(param, grad, raw, job, key, step, before))
    return [replace(one, row=one.row + before) for one in found]


def _matrix(job):
    """Return the shape of the one matrix of a job."""
    return job.shape if len(job.shape) > 1 else (1, *job.shape)


def _rows(param, grad, raw, job, key, step, before):
    """Yield the slices of rows; state with an entry for every element is cut with it."""
    rows = len(param)
    cuts = {k: _by_rows(raw[k], rows) for k in with_elements(job) if k in raw}
    scales = [k for k in of_blocks(job) if k in raw]  # which stay vectors, as their codec wants them
    for row in range(0, max(1, rows), step):
        cut = slice(row, row + step)
        part = {k: cuts[k][cut] if k in cuts else x for k, x in raw.items()}
        part |= {k: part[k].flatten() for k in scales}
        yield Slice(param[cut], grad[cut], part, seeds(job, key, before + row), row)


def _by_rows(x, rows):
    return x.view(rows, -1) if rows else x.view(0, *(x.shape[1:] or (1,)))


def cut(now: Now, s: Slice) -> Now:
    """Return the numbers of a step with the seeds and the rows of a slice."""
    last = s.row + len(s.param)
    rows = {axis: {name: x[s.row : last] for name, x in found.items()} for axis, found in now.rows.items()}
    return replace(now, seeds=s.seeds, rows=rows)
