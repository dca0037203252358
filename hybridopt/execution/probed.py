"""Updates by gradients that are estimates: in slices, so that none of them exists in full."""

from dataclasses import replace

import torch

from ..core.numerics.directions import Direction, combine_
from ..parts.rules.sgd import SGD
from ..parts.rules.signsgd import SignSGD
from ..parts.stores.dense import Dense
from ..policy.job import sliceable
from .run import run
from .slices import elements, update_in_slices
from .state import seeds
from .task import Task

__all__ = ["multiples", "run_estimated"]


def run_estimated(task: Task, compile: bool) -> None:
    """Carry out a task whose gradient is an `Estimate`.

    Along elementwise directions alone, SGD and the sign of a single one are sums of multiples of directions, each
    rounded once, with the same bits on every device. Everything else sees the estimate slice by slice, or in full
    where a rule keeps state and updates are compiled, or where rows do not suffice.
    """
    weights = multiples(task)
    if weights is not None:
        return _add(task, weights, compile)
    task = task.in_blocks()
    if (compile and task.raw) or not sliceable(task.job) or task.param.numel() <= elements(task.param):
        run([replace(task, grad=task.grad.to(task.grad.dtype))], compile and bool(task.raw))
    else:
        update_in_slices(task.param, task.grad, task.raw, task.job, task.store, task.now(), task.key)


def multiples(task: Task) -> list[float] | None:
    """The update as multiples of the directions, where it is that; rows of a parameter may then be given alone."""
    t, grad = task.job.treatment, task.grad
    plain = task.job.part.empty and grad.backprop is None and task.store.block == 1
    if not plain or not all(isinstance(noise, Direction) for _, noise in grad.terms):
        return None
    scale = float(task.lr) * t.lr_scale * t.free_lr_scale
    if type(t.free) is SGD:
        return [scale * weight for weight, _ in grad.terms]
    signs = type(t.free) is SignSGD and len(grad.terms) == 1 and grad.terms[0][1].kind == "rademacher"
    return [scale * ((weight > 0) - (weight < 0)) for weight, _ in grad.terms] if signs else None


def _add(task: Task, weights: list[float], compile: bool) -> None:
    """param <- decay param - sum_k weight_k z_k, where param begins with a row of the whole, at `grad.start`."""
    terms = [(-weight, noise) for weight, (_, noise) in zip(weights, task.grad.terms, strict=True)]
    decay = float(task.decay)
    if type(task.store) is Dense:
        return combine_(task.param, task.param, terms, task.grad.start, decay, compile)
    width = task.param.shape[-1] if task.param.ndim > 1 else task.param.numel()
    flat, step, first = task.param.view(-1, width), max(1, elements(task.param) // width), task.grad.start // width
    for row in range(0, len(flat), step):
        value = flat[row : row + step].to(torch.float32)
        combine_(value, value, terms, task.grad.start + row * width, decay, compile)
        task.store.put_(flat[row : row + step], value, seeds(task.job, task.key, first + row)[""])
