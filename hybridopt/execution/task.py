"""One parameter's update, ready to be carried out."""

from dataclasses import dataclass, replace

from torch import Tensor

from ..base import State, Store
from ..state import Job, in_blocks, seeds
from ..update import Now

__all__ = ["Task"]


@dataclass(frozen=True, eq=False)
class Task:
    """Tensors in the job's shape, and the numbers of the step.

    lr: the group's. decay: 1 - lr * weight decay. age: steps of the state, from 1. key, constant: seeds for rounding,
    of this step and of the whole run.
    """

    param: Tensor
    grad: Tensor
    raw: State
    job: Job
    store: Store
    lr: float | Tensor
    decay: float | Tensor
    age: int
    key: int
    constant: int

    def in_blocks(self) -> "Task":
        """The same task, a block of its codec in every row, where that is possible."""
        job = in_blocks(self.job)
        if job is self.job:
            return self
        raw = {name: x.view(job.shape) if x.numel() == self.param.numel() else x for name, x in self.raw.items()}
        return replace(self, param=self.param.view(job.shape), grad=self.grad.view(job.shape), raw=raw, job=job)

    def now(self) -> Now:
        """The numbers as plain floats."""
        t = self.job.treatment
        numbers = t.full.numbers(self.age), t.free.numbers(self.age)
        return Now(self.lr * t.lr_scale, self.decay, *numbers, self.constant, seeds(self.job, self.key))
