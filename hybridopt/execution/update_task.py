"""One parameter's update in one step, ready to be carried out by a backend."""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod

import torch
from torch import Tensor
from torch.nn import Parameter

from ..core.contracts import State, Store, stream
from ..core.numerics.rounding import Seed
from ..policy.job import Job, declare
from .gradient_check import GradientCheck
from .state import rounded, seeds
from .update import Now

__all__ = ["Task", "in_memory"]

PLAIN: tuple[type, ...] = (Tensor, Parameter)  # types of weights that are nothing but their elements


@dataclass(frozen=True, eq=False)
class Task:
    """The tensors of a parameter, what is done to them, and the numbers of the step.

    Args:
        param: the weight, [*job.shape], contiguous.
        grad: its gradient in the same shape; a `ProbeGradient` for `execution.probe_updates`.
        raw: its state, as `policy.job.declare` names it.
        job: what is done to it in the current window.
        store: writes the weight.
        lr: the learning rate of its param group.
        decay: the factor of the weight, 1 - lr * weight decay.
        age: how many steps its state has seen, this one included.
        stream: what its random numbers depend on: seed and name.
        step: the step, from 0; random numbers of a step depend on it, too.
        sound: bool [] on the parameter's device: where it is False, nothing may change. None: it is True.
        before: elements of the parameter that come before these, on other ranks, where it is sharded.
        check: what the check of the gradient has found, where there was one.
    """

    param: Tensor
    grad: Tensor
    raw: State
    job: Job
    store: Store
    lr: float | Tensor
    decay: float | Tensor
    age: int
    stream: tuple
    step: int
    sound: Tensor | None = None
    before: int = 0
    check: GradientCheck | None = None

    @property
    def plain(self) -> bool:
        """Return whether the weight is an ordinary tensor: no DTensor, no codes."""
        return type(self.param) in PLAIN

    @property
    def in_memory(self) -> bool:
        """Return whether all tensors lie in memory as kernels read them, which take addresses and ask nothing more.

        A state may have been changed by hand, and gradients may stand for numbers that are elsewhere.
        """
        where = self.param.device
        if not (in_memory(self.param, where) and in_memory(self.grad, where)):
            return False
        for name, count, dtype in _declared(self.job):
            x = self.raw[name]
            if x.dtype is not dtype or x.numel() != count or not in_memory(x, where):
                return False
        return True

    @property
    def row(self) -> int:
        """Return the row of the parameter, as the job sees it, that its first row is."""
        return self.before // self.job.shape[-1] if self.before and len(self.job.shape) > 1 else 0

    @property
    def random(self) -> bool:
        """Return whether the weight or its state is rounded at random."""
        return self.store.random or self.job.treatment.codec.random

    @property
    def alike(self) -> tuple:
        """Return what must be equal, beside their jobs, in tasks that are done together: numbers, device, dtypes."""
        lr = id(self.lr) if isinstance(self.lr, Tensor) else self.lr
        decay = id(self.decay) if isinstance(self.decay, Tensor) else self.decay
        return self.sound is None, self.age, lr, decay, self.param.device, self.param.dtype, self.grad.dtype

    @cached_property
    def rounded(self) -> tuple[str, ...]:
        """Return the names of the seeds by which something of this task is rounded at random."""
        return rounded(self.job, self.store.random) if self.random else ()

    @cached_property
    def constant(self) -> int:
        """Return the seed of this parameter that is the same in all steps, 63 bits."""
        return _seed(self.stream)

    @cached_property
    def key(self) -> int:
        """Return the seed of this parameter in this step, 63 bits."""
        return stream(*self.stream, self.step)

    def in_blocks(self) -> "Task":
        """Return the same task with a block of its codec in every row, where that is possible; else itself."""
        job = self.job.in_blocks
        if job is self.job:
            return self
        raw = {name: x.view(job.shape) if x.numel() == self.param.numel() else x for name, x in self.raw.items()}
        return replace(self, param=self.param.view(job.shape), grad=self.grad.view(job.shape), raw=raw, job=job)

    def seeds(self) -> dict[str, Seed]:
        """Return the seeds for all that this step rounds at random, in the whole parameter."""
        return seeds(self.job, self.key, self.row)

    def now(self) -> Now:
        """Return the numbers of the step as plain floats, and the seeds."""
        t = self.job.treatment
        numbers = t.full.numbers(self.age), t.free.numbers(self.age)
        own = self.seeds() if self.random else self.job.unseeded
        return Now(self.lr * t.lr_scale, self.decay, *numbers, self.constant, own)


def in_memory(x: Tensor, where: torch.device) -> bool:
    """Return whether a tensor lies in memory as a kernel reads it, one number behind the other.

    Args:
        x: the tensor.
        where: the device.
    """
    memory = type(x) in PLAIN and x.is_contiguous() and x.device == where
    return memory and not x.is_neg() and not x._is_zerotensor()


@lru_cache(maxsize=1 << 14)
def _declared(job: Job) -> tuple[tuple[str, int, torch.dtype], ...]:
    return tuple((name, prod(slot.shape), slot.dtype) for name, slot in declare(job).items())


@lru_cache(maxsize=1 << 14)
def _seed(parts):
    return stream(*parts)
