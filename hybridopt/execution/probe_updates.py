"""Updates by gradients from probes of the loss: in slices, so that no such gradient exists in full."""

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ..core.numerics.directions import Direction, combine_
from ..core.numerics.host import on_host
from ..parts.rules.sgd import SGD
from ..parts.rules.signsgd import SignSGD
from ..parts.stores.dense import Dense
from ..policy.job import sliceable
from .backends.compiled import AWAY, put
from .dispatch import run
from .probe_gradient import ProbeGradient
from .slices import elements, update_in_slices
from .state import seeds
from .update_task import Task

__all__ = ["multiples", "run_estimated", "temporaries"]


def run_estimated(task: Task, compile: bool) -> None:
    """Carry out a task whose gradient is a `ProbeGradient`.

    Along elementwise directions alone, SGD and the sign of a single one are sums of multiples of directions, each
    rounded once, with the same bits on every device. Everything else sees the gradient slice by slice, or in full
    where a rule keeps state and updates are compiled, or where rows do not suffice. On accelerators a mixture with the
    backward pass's gradient, which is never replayed, is compiled without state, too.
    """
    weights = multiples(task)
    if weights is not None:
        return _add(task, weights, compile)
    task = _with_kernels(task.in_blocks(), compile)
    if _compiled_in_slices(task, compile):
        run([task], compile)
    elif (compile and task.raw) or not sliceable(task.job) or task.param.numel() <= elements(task.param):
        run([replace(task, grad=task.grad.to(task.grad.dtype))], compile and bool(task.raw))
    else:
        update_in_slices(task)


def _with_kernels(task, compile):
    """Return a task whose directions kernels of its accelerator make, where any may be compiled."""
    kernels = compile and not on_host(task.param.device)
    return replace(task, grad=replace(task.grad, kernels=kernels))


def _compiled_in_slices(task, compile):
    """Return whether kernels of an accelerator update it, slice by slice: never what must replay to the bit."""
    return compile and not (on_host(task.param.device) or task.raw) and task.grad.backprop is not None


def multiples(task: Task) -> list[float] | None:
    """Return the factor of every direction in the update, None where it is no sum of multiples of directions.

    Where there are factors, rows of the parameter may be given alone, with `grad.start`.
    """
    t, grad = task.job.treatment, cast(ProbeGradient, task.grad)
    plain = task.job.part.empty and grad.backprop is None and task.store.block == 1 and not task.job.beside
    if not plain or not all(isinstance(noise, Direction) for _, noise in grad.terms):
        return None
    scale = float(task.lr) * t.lr_scale * t.free_lr_scale
    if type(t.free) is SGD:
        return [scale * weight for weight, _ in grad.terms]
    signs = type(t.free) is SignSGD and len(grad.terms) == 1 and cast(Direction, grad.terms[0][1]).kind == "rademacher"
    return [scale * ((weight > 0) - (weight < 0)) for weight, _ in grad.terms] if signs else None


def temporaries(
    task: Task, grad: ProbeGradient, compile: bool, drawing: int, peak: Callable[[Callable[[], object]], int]
) -> int:
    """Return the bytes that `run_estimated` takes beyond weight, state, and the gradient of the backward pass.

    Args:
        task: of tensors without memory, its gradient too.
        grad: what would be its gradient.
        compile: are updates compiled?
        drawing: bytes that drawing a direction takes.
        peak: calls a function and returns the most bytes that were alive besides the tensors of `task`.
    """
    if multiples(replace(task, grad=cast(Tensor, grad))) is not None:
        return drawing if type(task.store) is Dense else max(drawing, peak(lambda: _round_slice(task)))
    told = _with_kernels(replace(task, grad=cast(Tensor, grad)), compile)
    count, job, compiled = task.param.numel(), task.job, _compiled_in_slices(told, compile)
    whole = compile and (task.raw or (compiled and (job.rounds or not sliceable(job))))
    made = count if whole else min(count, AWAY if compiled else elements(task.param))
    drawing = told.grad.room(made) or drawing
    within = 0 if compiled and task.plain else peak(lambda: update_in_slices(task))
    return made * job.arithmetic.itemsize + max(drawing, within)


def _add(task: Task, weights: list[float], compile: bool) -> None:
    """Compute param <- decay param - sum_k weight_k z_k, where param begins with a row of the whole, `grad.start`."""
    grad, decay = cast(ProbeGradient, task.grad), float(task.decay)
    terms = [(-weight, cast(Direction, noise)) for weight, (_, noise) in zip(weights, grad.terms, strict=True)]
    if type(task.store) is Dense:
        return combine_(task.param, task.param, terms, grad.start, decay, compile)
    flat, step = _rows(task)
    width = flat.shape[-1]
    first = grad.start // width
    for row in range(0, len(flat), step):
        value = flat[row : row + step].to(torch.float32)
        combine_(value, value, terms, grad.start + row * width, decay, compile)
        seed = seeds(task.job, task.key, first + row)[""]
        put(task, flat[row : row + step], value, seed) if compile else task.store.put_(
            flat[row : row + step], value, seed
        )


def _rows(task):
    """Return the weight as [rows, width], and how many rows are a slice."""
    width = task.param.shape[-1] if task.param.ndim > 1 else task.param.numel()
    return task.param.view(-1, width), max(1, (elements(task.param) if on_host(task.param.device) else AWAY) // width)


def _round_slice(task):
    """Store a slice that was computed in full precision, as `_add` does."""
    flat, step = _rows(task)
    part = flat[:step]
    task.store.put_(part, part.to(torch.float32, copy=True), seeds(task.job, task.key)[""])
