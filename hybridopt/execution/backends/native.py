"""Rules for which torch has a kernel of its own, where nothing else has to be done to the parameter."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ...parts.codecs.fp32 import Fp32
from ...parts.splits.whole import Whole
from ...parts.stores.dense import Dense
from ...policy.job import Job
from ..task import Task

__all__ = ["fits", "run"]

DEVICES = ("cpu", "cuda")


def fits(task: Task) -> bool:
    """Does the rule's `fused_` do all of this task?"""
    return _rule_fits(task.job) and _tensors_fit(task) and _number(task.lr) and task.job.treatment.lr_scale > 0


def run(tasks: Iterable[Task]) -> None:
    """Call `fused_` once for all tasks of the same numbers."""
    alike: dict[tuple, list[Task]] = {}
    for task in tasks:
        alike.setdefault((id(task.job.treatment), *task.alike), []).append(task)
    for same in alike.values():
        one = same[0]
        states = [{name: task.raw[name] for name in one.job.slots} for task in same]
        lr = one.lr * one.job.treatment.lr_scale
        params, grads = [t.param for t in same], [t.grad for t in same]
        one.job.treatment.full.fused_(params, grads, states, one.age, lr, one.decay)
        increment_version(params)


def _rule_fits(job: Job):
    t = job.treatment
    return isinstance(job.part, Whole) and isinstance(t.codec, Fp32) and hasattr(t.full, "fused_")


def _tensors_fit(task):
    p = task.param
    same = p.dtype == task.grad.dtype == task.job.arithmetic and task.grad.is_contiguous()
    plain = isinstance(task.store, Dense) and type(p) in (Tensor, torch.nn.Parameter)
    return same and plain and p.is_contiguous() and p.device.type in DEVICES


def _number(lr):
    return not isinstance(lr, Tensor) and lr > 0
