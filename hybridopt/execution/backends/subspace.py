"""Updates within a subspace: the moments of many parameters by one call, lifted by one product into each weight."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from math import prod

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ...core.contracts import Backend
from ...parts.splits.whole import Whole
from ...parts.stores.dense import Dense
from ...policy.job import Job, declare
from ..conditional_updates import guarded, plain_tensors
from ..dispatch import run
from ..state import basis
from ..update_task import Task
from .native import plain

__all__ = ["ByCoordinates"]

MOST = 1 << 17  # coordinates that are there at a time, unless one parameter has more
DENSE = Dense()


class ByCoordinates(Backend[Task]):
    """Update the coordinates of a gradient as weights of their own, and add what becomes of them to the weight.

    Coordinates begin at zero and are whole parameters, so that any backend updates them, torch's fused kernel among
    them. weight <- decay weight + (what they became) Q' is one product, and nothing of the weight's size is made.
    """

    name = "subspace"
    rank = 40
    heeds_sound = True

    def fits(self, task: Task) -> bool:
        """Return whether it is a weight, not rounded, of which nothing moves outside a subspace."""
        job = task.job
        inside = job.treatment.free.idle and not job.beside and job.part.projection() is not None
        return inside and not job.treatment.full.reads_param and plain(task)

    def run(self, tasks: Iterable[Task]) -> None:
        """Carry out tasks, so many at a time that their coordinates stay in the cache."""
        for some in _together(tasks):
            lows = [_low(task) for task in some]
            run(lows, compile=False)
            for task, low in zip(some, lows, strict=True):
                with guarded(task.sound, partial(plain_tensors, task.param)):
                    _lift_(task, low.param)
            increment_version([task.param for task in some])

    def tolerance(self, task: Task) -> float:
        """Allow for products that are added to a weight before they are rounded, and for torch's own AdamW."""
        return 64 * torch.finfo(task.job.arithmetic).eps

    def temporaries(self, tasks: Sequence[Task], measured: Callable[[], int]) -> int:
        """Return what a parameter takes, as measured."""
        return measured()

    def together(self, tasks: Sequence[Task], alone: int) -> int:
        """Return what the coordinates of several small ones and of their gradients take, if that is more."""
        return max(alone, *(2 * sum(_bytes(task.job) for task in some) for some in _together(tasks)))


def _together(tasks: Iterable[Task]) -> Iterator[list[Task]]:
    """Yield tasks in order, as many as have `MOST` coordinates, but at least one."""
    some: list[Task] = []
    held = 0
    for task in tasks:
        size = _size(task.job)
        if some and held + size > MOST:
            yield some
            some, held = [], 0
        some, held = [*some, task], held + size
    if some:
        yield some


@lru_cache(maxsize=4096)
def _whole(job: Job) -> Job:
    """Return the job of the coordinates: the state-full rule on all of them."""
    assert job.low is not None
    alone = replace(job.treatment, split=Whole(), store=DENSE, gap=None, reset=True)
    return Job(alone, Whole(), tuple(job.low), job.arithmetic)


def _size(job: Job) -> int:
    return prod(_whole(job).shape)


def _bytes(job: Job) -> int:
    return _size(job) * job.arithmetic.itemsize


def _low(task: Task) -> Task:
    """Return the task that updates coordinates of zero by those of the gradient."""
    job = _whole(task.job)
    grad = task.job.part.down(task.grad, basis(task.job, task.raw))
    assert grad is not None
    raw = {name: task.raw[name] for name in declare(job)}
    low = torch.zeros(job.shape, dtype=grad.dtype, device=grad.device)
    return replace(task, param=low, grad=grad.contiguous(), raw=raw, job=job, store=DENSE, decay=1.0)


def _lift_(task: Task, low: Tensor) -> None:
    """Write decay weight + low, back in the full shape, to the weight."""
    param, part, at, decay = task.param, task.job.part, basis(task.job, task.raw), task.decay
    if isinstance(decay, Tensor):
        param.mul_(decay)
        decay = 1.0
    factors = part.factors(task.job.shape, low, at)
    if factors is None:
        param.mul_(decay)
        part.up_(param, low, at)
    elif param.ndim == 2:
        param.addmm_(*factors, beta=decay)
    else:
        left, right = (x.reshape(-1, *x.shape[-2:]) for x in factors)
        param.view(-1, *param.shape[-2:]).baddbmm_(left, right, beta=decay)
