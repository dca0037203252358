"""Compile functions of an update: one kernel for every combination of parts, for all shapes and all numbers."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from ...core.errors import HybridOptWarning
from ...core.numerics.rounding import Seed, hashed_rows, tables
from ...policy.job import Job
from ..slices import Slice
from ..task import Task
from ..update import Now

__all__ = ["Part", "alike", "broken", "call"]

Part = tuple[Task, Slice, tuple]  # a slice of a task, and what the function is told besides
_kernels: dict[tuple, Callable] = {}
_keys: dict[tuple, tuple] = {}  # what a kernel depends on, by a job that needs it
_broken: set[tuple] = set()  # jobs that cannot be compiled here


def alike(task: Task) -> tuple:
    """Return what must be equal in tasks that share a kernel and are done by one call of it with the same numbers."""
    return _general(task.job), task.store, tuple(task.raw), tuple(n == 1 for n in task.param.shape), *task.alike


def broken(job: Job) -> bool:
    """Return whether compiling has failed for a job of this kind."""
    return bool(_broken) and _general(job) in _broken


def call(function: Callable, parts: list[Part], numbers: Tensor, names: tuple) -> list:
    """Call a function on every part by one call of its kernel, which is made when there is none.

    Where compiling fails it warns, and the function is called as it is.

    Args:
        function: takes weight, gradient, state, job, store and `Now` of a slice, then what the part says besides.
        parts: slices of tasks that are `alike`.
        numbers: lr, decay and the numbers of both rules, [n], so that no kernel depends on their values.
        names: of the numbers of the state-full rule, and of the state-free one.

    Returns:
        What the function returns, part by part.
    """
    key = _key(function, parts, names)
    given = numbers, tuple(_tensors(part) for part in parts)
    try:
        if key in _kernels:
            return _kernels[key](*given)
        kernel = _compile(_on_tensors(function, parts[0], names), numbers.device)
        with _every_size_its_own():
            out = kernel(*given)
        _kernels[key] = kernel
        return out
    except _failures() as error:  # while compiling, so nothing has been changed
        _give_up(parts[0][0].job, error)
        return _on_tensors(function, parts[0], names)(*given)


def _key(function, parts, names):
    task, piece, _ = parts[0]
    where = task.param.device, task.param.dtype, task.grad.dtype, torch.get_num_threads()
    one = function, len(parts), task.job, task.store, where, len(piece.param) == 1
    if one not in _keys:
        kinds = tuple((x.dtype, x.ndim) for x in (piece.param, piece.grad, *piece.raw.values()))
        ones = tuple(n == 1 for n in piece.param.shape)
        _keys[one] = (
            function,
            len(parts),
            _general(task.job),
            task.store,
            names,
            tuple(piece.raw),
            kinds,
            ones,
            where,
        )
    return _keys[one]


def _tensors(part):
    task, piece, more = part
    key = _constant(task.constant, task.param.device)
    return piece.param, piece.grad, key, _dice(task, piece), tuple(piece.raw.values()), more


def _on_tensors(function, part, names):
    """Make a function of tensors alone, (numbers, parts), that calls `function` on every part in turn."""
    task, piece, _ = part
    (full, free), job, store, raw_names = names, task.job, task.store, tuple(piece.raw)
    # Worked out now, not while it is traced.
    job.kept, job.basis, job.rules, job.rounds, job.separate, job.unseeded  # noqa: B018

    def kernel(numbers, parts):
        told = numbers.unbind()
        of_full = dict(zip(full, told[2 : 2 + len(full)], strict=True))
        of_free = dict(zip(free, told[2 + len(full) :], strict=True))
        out = []
        for param, grad, key, dice, raws, more in parts:
            seeds = {name: Seed(0, 0, hashes) for name, hashes in dice.items()} or job.unseeded
            now = Now(told[0], told[1], of_full, of_free, key, seeds)
            out.append(function(param, grad, dict(zip(raw_names, raws, strict=True)), job, store, now, *more))
        return out

    return kernel


def _dice(task: Task, piece: Slice) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the hashes of rows and of columns for all that is rounded at random; {} where nothing is."""
    if not task.random:
        return {}
    device, shape = piece.param.device, piece.param.shape
    block = task.job.treatment.codec.block
    count = max(shape[:-1].numel(), -(-shape.numel() // block) if block else 0)
    columns = tables(max(shape[-1:].numel(), block), device)[1]
    seeds = piece.seeds or task.now().seeds
    return {name: (hashed_rows(seed.key, seed.row, count, device), columns) for name, seed in seeds.items()}


@lru_cache(maxsize=1 << 14)
def _constant(key, device):
    return torch.tensor(key, device=device)


@lru_cache(maxsize=4096)
def _general(job):
    """Return what a kernel depends on: not the shape, nor numbers of a part that only follow from it."""
    part = replace(job.part, **dict.fromkeys(job.part.sizes, 1)) if job.part.sizes else job.part
    return job.treatment, part, job.arithmetic


def _compile(function, device):
    """Compile a function with a code object of its own, so that kernels do not count as each other's recompilations.

    On a CPU with guards on tensors and sizes only: `_key` has checked everything else, and all guards together cost
    more than a small update.
    """
    function.__code__ = function.__code__.replace(co_name=f"{function.__name__}_{len(_kernels)}")
    bare = {"guard_filter_fn": _sizes, "size_asserts": False}
    bare |= {"realize_opcount_threshold": 1000, "realize_reads_threshold": 1000}  # no temporaries
    return torch.compile(function, fullgraph=True, dynamic=True, options=bare if device.type == "cpu" else None)


def _sizes(guards):
    return [guard.guard_type in ("SHAPE_ENV", "TENSOR_MATCH") for guard in guards]


def _every_size_its_own():
    """Keep tracing from taking two sizes that are equal now to be one: a kernel serves every shape."""
    config = torch.fx.experimental._config
    return config.patch(use_duck_shape=False) if hasattr(config, "use_duck_shape") else nullcontext()


def _failures():
    return (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError, OSError)


def _give_up(job, error):
    told, _ = bool(_broken), _broken.add(_general(job))
    if told:
        return
    why = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    warnings.warn(
        f"updates are not compiled ({why}), so steps are slower, with the same results. Install a C++ compiler (for "
        "GPUs Triton), or pass compile=False",
        HybridOptWarning,
        stacklevel=6,
    )
