"""One parameter's update, ready to be carried out."""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from torch import Tensor

from ..core.contracts import State, Store, stream
from ..policy.job import Job
from .state import seeds
from .update import Now

__all__ = ["Task"]


@dataclass(frozen=True, eq=False)
class Task:
    """Tensors in the job's shape, and the numbers of the step.

    lr: the group's. decay: 1 - lr * weight decay. age: steps of the state, from 1. stream: what the random numbers of
    the parameter depend on, step: and those of this step besides.
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

    @property
    def random(self) -> bool:
        """Does anything round at random?"""
        return self.store.random or self.job.treatment.codec.random

    @property
    def alike(self) -> tuple:
        """What tasks must have in common, beside their jobs, to be done together: numbers, device and dtypes."""
        lr = id(self.lr) if isinstance(self.lr, Tensor) else self.lr
        decay = id(self.decay) if isinstance(self.decay, Tensor) else self.decay
        return self.age, lr, decay, self.param.device, self.param.dtype, self.grad.dtype

    @cached_property
    def constant(self) -> int:
        """A seed for the whole run."""
        return _seed(self.stream)

    @cached_property
    def key(self) -> int:
        """A seed for this step."""
        return stream(*self.stream, self.step)

    def in_blocks(self) -> "Task":
        """The same task, a block of its codec in every row, where that is possible."""
        job = self.job.in_blocks
        if job is self.job:
            return self
        raw = {name: x.view(job.shape) if x.numel() == self.param.numel() else x for name, x in self.raw.items()}
        return replace(self, param=self.param.view(job.shape), grad=self.grad.view(job.shape), raw=raw, job=job)

    def now(self) -> Now:
        """The numbers as plain floats."""
        t = self.job.treatment
        numbers = t.full.numbers(self.age), t.free.numbers(self.age)
        own = seeds(self.job, self.key) if self.random else self.job.unseeded
        return Now(self.lr * t.lr_scale, self.decay, *numbers, self.constant, own)


@lru_cache(maxsize=1 << 14)
def _seed(parts):
    return stream(*parts)
