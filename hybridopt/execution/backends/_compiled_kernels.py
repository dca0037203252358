"""Compile functions of an update: one kernel for every combination of parts, for all shapes and all numbers."""

import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core.contracts import CodedWeight
from ...core.errors import HybridOptWarning
from ...core.numerics.compiling import compiled, failures, reason
from ...core.numerics.host import on_host, put
from ...core.numerics.rounding import Seed, as_seed, hashed_rows, tables
from ...policy.job import BASIS, Job
from ..conditional_updates import kept, plain_tensors, put_back_
from ..slices import Slice
from ..update import Now
from ..update_task import Task

__all__ = ["Call", "Stage", "alike", "broken", "call", "keys"]

LARGE = 1 << 16  # elements: on accelerators, such a parameter has kernels for its own shape
_kernels: dict[tuple, Callable] = {}
_keys: dict[tuple, tuple] = {}  # what a kernel depends on, by a job that needs it
_broken: set[tuple] = set()  # jobs that cannot be compiled here


class Call(NamedTuple):
    """A slice of a task that is done by one call, alone or with others.

    Args:
        task: of a parameter.
        piece: the slice of it.
        keys: of what is rounded at random, int64 [len(task.rounded)]; None where hashes are looked up, or for none.
        more: what the function is told besides.
    """

    task: Task
    piece: Slice
    keys: Tensor | None
    more: tuple = ()


@dataclass(frozen=True)
class Stage:
    """A function of an update that becomes a kernel of its own.

    Args:
        function: takes weight, gradient, state, job, store and `Now` of a slice, then what its `Call` says besides.
        weight: does it write the weight, so that it must be put back where the task turns out not to be sound?
        state: does it write the state?
    """

    function: Callable
    weight: bool = True
    state: bool = True


def alike(task: Task) -> tuple:
    """Return what must be equal in tasks that share a kernel and are done by one call of it with the same numbers."""
    ones = tuple(n == 1 for n in task.param.shape)
    return _general(task.job), task.store, tuple(task.raw), task.rounded, bool(task.before), ones, *task.alike


def broken(job: Job) -> bool:
    """Return whether compiling has failed for a job of this kind."""
    return bool(_broken) and _general(job) in _broken


def keys(tasks: Iterable[Task]) -> dict[Task, Tensor]:
    """Send the keys of all that tasks round at random to accelerators, in one copy a device.

    Returns:
        int64 [len(task.rounded)] by task; nothing for tasks on the host, where kernels get hashes instead.
    """
    waiting: dict[torch.device, list[Task]] = {}
    for task in tasks:
        if task.rounded and not on_host(task.param.device):
            waiting.setdefault(task.param.device, []).append(task)
    found: dict[Task, Tensor] = {}
    for device, some in waiting.items():
        seeds = [(task.seeds(), task.rounded) for task in some]
        sent = put([seed[name].key for seed, names in seeds for name in names], torch.int64, device)
        found |= zip(some, sent.split([len(names) for _, names in seeds]), strict=True)
    return found


def call(stage: Stage, parts: list[Call], numbers: Tensor, names: tuple) -> list:
    """Call a function on every part by one call of its kernel, which is made when there is none.

    Where compiling fails it warns, and the function is called as it is.

    Args:
        stage: the function, and what it writes.
        parts: slices of tasks that are `alike`.
        numbers: lr, decay and the numbers of both rules, [n], so that no kernel depends on their values.
        names: of the numbers of the state-full rule, and of the state-free one.

    Returns:
        What the function returns, part by part.
    """
    key = _key(stage, parts, names)
    given = numbers, tuple(_tensors(part) for part in parts)
    try:
        if key in _kernels:
            return _kernels[key](*given)
        kernel = _compile(_on_tensors(stage, parts[0], names), parts[0].task.param)
        with _every_size_its_own():
            out = kernel(*given)
        _kernels[key] = kernel
        return out
    except failures() as error:  # while compiling, so nothing has been changed
        _give_up(parts[0].task.job, error)
        return _on_tensors(stage, parts[0], names)(*given)


def _key(stage, parts, names):
    task, piece = parts[0][:2]
    where = task.param.device, task.param.dtype, task.grad.dtype, torch.get_num_threads()
    shapes = tuple([part.piece.param.shape for part in parts]) if _static(task.param) else ()
    shapes = (*shapes, bool(piece.seeds))
    one = stage, len(parts), task.job, task.store, where, len(piece.param) == 1, task.sound is None, shapes
    if one not in _keys:
        kinds = tuple((x.dtype, x.ndim) for x in (piece.param, piece.grad, *piece.raw.values()))
        ones = tuple(n == 1 for n in piece.param.shape)
        about = names, tuple(piece.raw), kinds, ones, task.rounded, _opened(piece.param)
        _keys[one] = stage, len(parts), _general(task.job), task.store, where, task.sound is None, shapes, about
    return _keys[one]


def _static(param):
    """Return whether its kernels are for one shape: only those of accelerators are much faster, and few are needed."""
    return not on_host(param.device) and param.numel() >= LARGE


def _tensors(part):
    task, piece, sent, more = part
    key = _constant(task.constant, task.param.device)
    dice = _dice(task, piece) if sent is None else (sent, _row(piece))
    return plain_tensors(piece.param), piece.given[1], key, dice, tuple(piece.raw.values()), task.sound, more


def _on_tensors(stage, part, names):
    """Make a function of tensors alone, (numbers, parts), that calls a stage's function on every part in turn."""
    task, piece = part[:2]
    (full, free), job, store, raw_names = names, task.job, task.store, tuple(piece.raw)
    rounded, function, opened = task.rounded, stage.function, _opened(piece.param)
    moved = [name for name in raw_names if stage.state and not name.startswith(BASIS)]
    # Worked out now, not while it is traced.
    job.kept, job.basis, job.beside, job.rules, job.rounds, job.separate, job.unseeded  # noqa: B018

    def kernel(numbers, parts):
        told = numbers.unbind()
        of_full = dict(zip(full, told[2 : 2 + len(full)], strict=True))
        of_free = dict(zip(free, told[2 + len(full) :], strict=True))
        out = []
        for param, grad, key, dice, raws, sound, more in parts:
            seeds = {**job.unseeded, **dict(zip(rounded, _seeds(dice), strict=True))}
            raw = dict(zip(raw_names, raws, strict=True))
            before = kept(sound, [*param * stage.weight, *[raw[name] for name in moved]])
            now = Now(told[0], told[1], of_full, of_free, key, seeds)
            out.append(function(opened(param), grad, raw, job, store, now, *more))
            put_back_(sound, before)
        return out

    return kernel


def _opened(param):
    """Return what makes a weight, as stores take it in a kernel, of its plain tensors."""
    return param.opened() if isinstance(param, CodedWeight) else _only


def _only(tensors):
    (tensor,) = tensors
    return tensor


def _seeds(dice):
    """Make seeds from hashes of rows and of columns, a list of pairs, or from (keys, int64 [n], first row or None)."""
    if isinstance(dice, list):
        return [Seed(0, 0, pair) for pair in dice]
    keys, row = dice
    return [Seed(key, 0 if row is None else row) for key in keys.unbind()]


def _row(piece):
    """Return at which row a slice begins, int32 []; None for a whole parameter."""
    if not piece.seeds:
        return None
    return _constant(as_seed(piece.seeds[""]).row, piece.param.device, torch.int32)


def _dice(task: Task, piece: Slice) -> list[tuple[Tensor, Tensor]]:
    """Return the hashes of rows and of columns for all that is rounded at random."""
    if not task.rounded:
        return []
    device, shape = piece.param.device, piece.param.shape
    block = task.job.treatment.codec.block
    count = max(shape[:-1].numel(), -(-shape.numel() // block) if block else 0)
    columns = tables(max(shape[-1:].numel(), block), device)[1]
    known = piece.seeds or task.seeds()
    seeds = [as_seed(known[name]) for name in task.rounded]
    return [(hashed_rows(seed.key, seed.row, count, device), columns) for seed in seeds]


@lru_cache(maxsize=1 << 14)
def _constant(number, device, dtype=torch.int64):
    return put(number, dtype, device)


@lru_cache(maxsize=4096)
def _general(job):
    """Return what a kernel depends on: not the shape, nor numbers of a part that only follow from it."""
    part = replace(job.part, **dict.fromkeys(job.part.sizes, 1)) if job.part.sizes else job.part
    return job.treatment, part, job.arithmetic


def _compile(function, param):
    """Compile a function for the device of a parameter: for its shape, or for all shapes."""
    if on_host(param.device):
        whole = {"realize_opcount_threshold": 1000, "realize_reads_threshold": 1000}  # without temporaries
    else:
        whole = {"realize_opcount_threshold": 60}  # the hash of a row, which 30 would make a kernel of its own
    return compiled(function, len(_kernels), dynamic=not _static(param), **whole)


def _every_size_its_own():
    """Keep tracing from taking two sizes that are equal now to be one: a kernel serves every shape."""
    config: Any = torch.fx.experimental._config
    return config.patch(use_duck_shape=False) if hasattr(config, "use_duck_shape") else nullcontext()


def _give_up(job, error):
    told = bool(_broken)
    _broken.add(_general(job))
    if told:
        return
    warnings.warn(
        f"updates are not compiled ({reason(error)}), so steps are slower, with the same results up to rounding. "
        "Install a C++ compiler (for GPUs Triton), or pass compile=False",
        HybridOptWarning,
        stacklevel=6,
    )
