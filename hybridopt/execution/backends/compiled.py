"""Updates of large parameters by compiled kernels, several parameters by one call."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, lru_cache

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ...core.contracts import Backend, CodedWeight
from ...core.numerics.host import on_host
from ...core.numerics.host import put as send
from ...core.numerics.rounding import Seed
from ...policy.job import sliceable
from ..dispatch import WORTH_COMPILING
from ..slices import Slice, rows_of, slices
from ..state import basis
from ..update import look, settle, update, write, write_free_, write_low
from ..update_task import Task
from . import _compiled_kernels as kernels
from ._compiled_kernels import Call, Stage

__all__ = ["Compiled", "put"]

SMALLEST = 1 << 16  # elements: below, a call costs more than what it saves
PIECE = 1 << 22  # elements of a slice, where a part of the parameter is copied out
BLOCKS = 1 << 18  # elements of a slice of state in blocks: what was decoded should stay in the cache
AWAY = 1 << 26  # elements of a slice of codes, or of a gradient of probes, on accelerators
CODED = 8  # bytes an element: its new value, and that in levels of its grid, which kernels hand on in float32
CREW, OF = 8, 1 << 21  # parameters done by one call, if none is larger than that


class Compiled(Backend[Task]):
    """Run the same functions as the eager backend through torch.compile: one pass over memory in place of ten.

    Parameters with a kernel and numbers in common make a crew; those of a crew that are not large are done by one
    call. Where compiling fails it warns, goes on without, and tasks of that kind fit no more.
    """

    name = "compiled"
    rank = 30
    compiles = True
    worth_from = WORTH_COMPILING
    in_blocks = True
    heeds_row = True
    heeds_sound = True

    def fits(self, task: Task) -> bool:
        """Return whether it is in plain tensors, not mainly matrix products, which gain nothing, and large.

        On accelerators one call is worth more than the fifty of a small update, too, and codes are plain tensors.
        """
        away = not on_host(task.param.device)
        plain = task.plain or (away and isinstance(task.param, CodedWeight))
        worth = task.param.numel() >= SMALLEST or away
        return plain and worth and _elementwise(task.job) and not kernels.broken(task.job)

    def run(self, tasks: Iterable[Task]) -> None:
        """Carry out tasks, crew by crew."""
        tasks, crews = list(tasks), dict[tuple, list[Task]]()
        keys = kernels.keys(tasks)
        for task in tasks:
            crews.setdefault(kernels.alike(task), []).append(task)
        for crew in crews.values():
            now = crew[0].now()
            floats = [now.lr, now.decay, *now.full.values(), *now.free.values()]
            vector = _vector(floats, crew[0].job.arithmetic, crew[0].param.device)
            for parts in _together(crew, keys):
                _update(parts, vector, (tuple(now.full), tuple(now.free)))
            increment_version([task.param for task in crew])

    def tolerance(self, task: Task) -> float:
        """Allow for numbers as tensors, fused multiplications, and sums in another order."""
        return 64 * torch.finfo(task.job.arithmetic).eps

    def temporaries(self, tasks: Sequence[Task], measured: Callable[[], int]) -> int:
        """Return what kernels hand on: rows and columns that rules look at, the part of a slice, values of codes."""
        return max(_between_kernels(task) for task in tasks)


def put(task: Task, rows: Tensor, value: Tensor, seed: Seed) -> None:
    """Let the store of a task write a value to rows of its weight, on accelerators by one kernel.

    Args:
        task: whose store it is.
        rows: of the weight, [n, width]; changed in place.
        value: float32 [n, width].
        seed: of these rows.
    """
    if on_host(rows.device) or not task.rounded or kernels.broken(task.job):
        return task.store.put_(rows, value, seed)
    key, row = send([seed.key, seed.row], torch.int64, rows.device).split(1)
    part = Call(task, Slice(rows, value, {}, {}, 0), key, (row.to(torch.int32).squeeze(0),))
    kernels.call(ROUND, [part], _vector([0.0, 1.0], task.job.arithmetic, rows.device), ((), ()))


def _between_kernels(task):
    job, looked = task.job, 0
    low = job.low
    if isinstance(task.param, CodedWeight):
        sliced = sliceable(job) and not job.rounds
        looked = CODED * (min(AWAY, task.param.numel()) if sliced else task.param.numel())
    if job.rounds and len(job.shape) > 1:
        looked += 8 * math.prod(job.shape[:-2]) * sum(job.shape[-2:])
    if low is None or not job.part.disjoint or job.part.covers:
        return looked
    share = math.prod(low) / math.prod(job.shape)
    sizes = task.param.element_size() + task.grad.element_size() + job.arithmetic.itemsize
    size = min(PIECE, task.param.numel()) if on_host(task.param.device) else task.param.numel()
    return looked + int(share * size * sizes)


def _update(parts: list[Call], numbers, names):
    """Update slices of a crew by one call of each kernel that the update needs.

    numbers: lr, decay and those of both rules, [n]. names: of the rules' numbers.
    """
    job = parts[0].task.job

    def call(stage, more=None):
        told = parts if more is None else [part._replace(more=x) for part, x in zip(parts, more, strict=True)]
        return kernels.call(stage, told, numbers, names)

    if job.rounds:
        seen: list[tuple] = [({}, {})] * len(parts)
        for i in range(job.rounds):
            seen = call(_round(i), seen)
        call(WRITE, seen)
    elif job.separate and parts[0].task.store.block == 1:
        chosen = call(LOW)
        call(FREE)
        call(PUT, [(x, part.task.sound) for x, part in zip(chosen, parts, strict=True)])
    else:
        call(UPDATE)


def _together(crew, keys):
    """Yield lists of parts, one a call: full crews of small parameters, everything else one by one.

    Kernels that look at whole matrices have many loops already, and would take minutes to compile eight times over.
    """
    small = [] if crew[0].job.rounds else [task for task in crew if task.param.numel() <= OF]
    full = len(small) // CREW * CREW
    for start in range(0, full, CREW):
        yield [Call(task, _whole(task), keys.get(task)) for task in small[start : start + CREW]]
    for task in [*small[full:], *(task for task in crew if task not in small)]:
        yield from ([Call(task, piece, keys.get(task))] for piece in _pieces(task))


def _whole(task):
    return Slice(task.param, task.grad, task.raw, task.seeds() if task.before and task.rounded else {}, 0)


def _pieces(task):
    """Cut a parameter into slices where kernels would need temporaries of its size; else it is one slice."""
    job, coded = task.job, isinstance(task.param, CodedWeight)
    blocks = task.raw and job.treatment.codec.block
    large = coded or not isinstance(task.grad, Tensor)  # a gradient of probes exists slice by slice
    size = AWAY if large else BLOCKS if blocks else PIECE
    small = task.param.numel() <= size or not (large or on_host(task.param.device))
    if small or not (large or blocks or job.separate) or not sliceable(job) or job.rounds:
        return [_whole(task)]
    step = rows_of(size, job.shape[-1], task.store.block)
    return [
        piece for _, cut in slices(task.param, task.grad, task.raw, job, task.key, step, task.row) for piece in cut
    ]


def _elementwise(job):
    subspace = not job.part.disjoint and job.part.slots(job.shape)
    return not subspace and not any(rule.products for _, rule in job.rules)


@cache
def _round(i):
    """Make the stage of round `i`: its results leave the kernel, or later loops would work them out anew."""

    def look_and_settle(param, grad, raw, job, store, now, rows, rest):
        now = replace(now, rows=rows, rest=rest)
        now = settle(i, look(i, param, grad, raw, job, now), raw, job, now)
        return now.rows, now.rest

    return Stage(look_and_settle, weight=False)


def _write(param, grad, raw, job, store, now, rows, rest):
    write(param, grad, raw, job, store, replace(now, rows=rows, rest=rest))


def _put_(param, grad, raw, job, store, now, chosen, sound):
    at = basis(job, raw)
    if sound is not None:
        chosen = torch.where(sound, chosen, job.part.down(param, at))
    job.part.up_(param, chosen, at)


def _round_(param, grad, raw, job, store, now, row):
    store.put_(param, grad, Seed(now.seeds[""].key, row))


WRITE, UPDATE = Stage(_write), Stage(update)
LOW, FREE, PUT = Stage(write_low, weight=False), Stage(write_free_, state=False), Stage(_put_, False, False)
ROUND = Stage(_round_, state=False)


def _vector(numbers, dtype, device):
    """Return numbers as a tensor [n]; those of a step are sent once, however many parameters are told.

    Tensors of a device stay there; those of the host, which it can read at once, are numbers like others.
    """
    if not on_host(device):
        numbers = [float(x) if isinstance(x, Tensor) and on_host(x.device) else x for x in numbers]
    made = _sent(tuple([0.0 if isinstance(x, Tensor) else x for x in numbers]), dtype, device)
    tensors = {i: x for i, x in enumerate(numbers) if isinstance(x, Tensor)}
    made = made.clone() if tensors else made
    for i, x in tensors.items():
        made[i].copy_(x)
    return made


@lru_cache(maxsize=256)
def _sent(numbers, dtype, device):
    return send(numbers, dtype, device)
