"""Updates of large parameters by compiled kernels, several parameters by one call."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ...core.contracts import Backend
from ...policy.job import sliceable
from ..slices import Slice, slices
from ..state import basis
from ..task import Task
from ..update import look, settle, update, write, write_free_, write_low
from . import _compiled_kernels as kernels

__all__ = ["Compiled"]

SMALLEST = 1 << 16  # elements: below, a call costs more than what it saves
PIECE = 1 << 22  # elements of a slice, where a part of the parameter is copied out
BLOCKS = 1 << 18  # elements of a slice of state in blocks: what was decoded should stay in the cache
CREW, OF = 8, 1 << 21  # parameters done by one call, if none is larger than that


class Compiled(Backend[Task]):
    """Run the same functions as the eager backend through torch.compile: one pass over memory in place of ten.

    Parameters with a kernel and numbers in common make a crew; those of a crew that are not large are done by one
    call. Where compiling fails it warns, goes on without, and tasks of that kind fit no more.
    """

    name = "compiled"
    rank = 30
    compiles = True
    in_blocks = True

    def fits(self, task: Task) -> bool:
        """Return whether it is large, in plain tensors, and not mainly matrix products, which gain nothing."""
        plain = type(task.param) in (Tensor, torch.nn.Parameter) and task.param.numel() >= SMALLEST
        return plain and _elementwise(task.job) and not kernels.broken(task.job)

    def run(self, tasks: Iterable[Task]) -> None:
        """Carry out tasks, crew by crew."""
        crews: dict[tuple, list[Task]] = {}
        for task in tasks:
            crews.setdefault(kernels.alike(task), []).append(task)
        for crew in crews.values():
            now = crew[0].now()
            floats = [now.lr, now.decay, *now.full.values(), *now.free.values()]
            vector = _vector(floats, crew[0].job.arithmetic, crew[0].param.device)
            for parts in _together(crew):
                _update(parts, vector, (tuple(now.full), tuple(now.free)))
            increment_version([task.param for task in crew])

    def tolerance(self, task: Task) -> float:
        """Allow for numbers as tensors, fused multiplications, and sums in another order."""
        return 64 * torch.finfo(task.job.arithmetic).eps

    def temporaries(self, tasks: Sequence[Task], measured: Callable[[], int]) -> int:
        """Return what kernels hand on to each other: rows and columns that rules look at, the part of a slice."""
        return max(_between_kernels(task) for task in tasks)


def _between_kernels(task):
    job, looked = task.job, 0
    low = job.low
    if low is not None and job.treatment.full.looks and len(job.shape) > 1:
        looked = 8 * math.prod(job.shape[:-2]) * sum(job.shape[-2:])
    if low is None or not job.part.disjoint or job.part.covers:
        return looked
    share = math.prod(low) / math.prod(job.shape)
    sizes = task.param.element_size() + task.grad.element_size() + job.arithmetic.itemsize
    return looked + int(share * min(PIECE, task.param.numel()) * sizes)


def _update(parts, numbers, names):
    """Update slices of a crew by one call of each kernel that the update needs.

    parts: (task, slice). numbers: lr, decay and those of both rules, [n]. names: of the rules' numbers.
    """
    job = parts[0][0].job

    def call(function, more=()):
        told = more or [()] * len(parts)
        with_more = [(task, piece, said) for (task, piece), said in zip(parts, told, strict=True)]
        return kernels.call(function, with_more, numbers, names)

    if job.rounds:
        seen = [({}, {})] * len(parts)
        for i in range(job.rounds):
            seen = call(_LOOKS[i], seen)
        call(_write, seen)
    elif job.separate:
        chosen = call(write_low)
        call(write_free_)
        call(_put_, [(x,) for x in chosen])
    else:
        call(update)


def _together(crew):
    """Yield lists of (task, slice), one a call: full crews of small parameters, everything else one by one.

    Kernels that look at whole matrices have many loops already, and would take minutes to compile eight times over.
    """
    small = [] if crew[0].job.rounds else [task for task in crew if task.param.numel() <= OF]
    full = len(small) // CREW * CREW
    for start in range(0, full, CREW):
        yield [(task, _whole(task)) for task in small[start : start + CREW]]
    for task in [*small[full:], *(task for task in crew if task not in small)]:
        yield from ([(task, piece)] for piece in _pieces(task))


def _whole(task):
    return Slice(task.param, task.grad, task.raw, {}, 0)


def _pieces(task):
    """Cut a parameter into slices where its kernels would need temporaries of its size; else it is one slice."""
    job = task.job
    blocks = task.raw and job.treatment.codec.block
    size = BLOCKS if blocks else PIECE
    if task.param.numel() <= size or not (blocks or job.separate) or not sliceable(job) or job.rounds:
        return [_whole(task)]
    step = max(1, size // job.shape[-1])
    return [piece for _, cut in slices(task.param, task.grad, task.raw, job, task.key, step) for piece in cut]


def _elementwise(job):
    rules = (job.treatment.full, job.treatment.free)
    subspace = not job.part.disjoint and job.part.slots(job.shape)
    return not subspace and not any(rule.products for rule in rules)


def _round(i):
    """Make the function of round `i`: its results leave the kernel, or later loops would work them out anew."""

    def look_and_settle(param, grad, raw, job, store, now, rows, rest):
        now = replace(now, rows=rows, rest=rest)
        now = settle(i, look(i, param, grad, raw, job, now), raw, job, now)
        return now.rows, now.rest

    return look_and_settle


_LOOKS = tuple(_round(i) for i in range(4))


def _write(param, grad, raw, job, store, now, rows, rest):
    write(param, grad, raw, job, store, replace(now, rows=rows, rest=rest))


def _put_(param, grad, raw, job, store, now, chosen):
    job.part.up_(param, chosen, basis(job, raw))


def _vector(numbers, dtype, device):
    if not any(isinstance(x, Tensor) for x in numbers):
        return torch.tensor(numbers, dtype=dtype, device=device)
    return torch.stack([torch.as_tensor(x, dtype=dtype, device=device) for x in numbers])
