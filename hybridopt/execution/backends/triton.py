"""Updates for which the project prints a Triton kernel: where inductor's take more than one pass over memory."""

import importlib.util
import linecache
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.utils.weak import WeakTensorKeyDictionary

from ...core.contracts import Backend
from ...parts.stores.bf16_stochastic import Bf16Stochastic
from ...parts.stores.dense import Dense
from ..printing.traced import printable
from ..printing.triton_columns import ColumnsKernel, kept_in
from ..task import Task
from . import _compiled_kernels as kernels

__all__ = ["Triton"]

SMALLEST = 1 << 16  # elements
ROWS, WIDE, NARROW = 4, 1024, 256  # of a program: rows, columns at a time, chosen columns at a time
NAME = "<hybridopt: columns of {full} and {free}, {number}>"
_texts: dict[str, str] = {}
_chosen: Any = WeakTensorKeyDictionary()  # by the tensor of indices: its version, and which columns it names


class Triton(Backend[Task]):
    """Update chosen columns by one rule and the others by another in a single pass (FRUGAL's default split).

    The kernel is printed from the rules' own `update`, and gives the bits of the eager update: operations are rounded
    one by one, and random rounding hashes the same counters.
    """

    name = "triton"
    rank = 25
    devices = frozenset({"cuda"})
    compiles = True
    heeds_sound = True

    def fits(self, task: Task) -> bool:
        """Return whether it is a large matrix of which columns are state-full, by rules and codecs that print."""
        job = task.job
        shaped = bool(job.part.columns) and len(job.shape) == 2 and job.separate
        plain = task.plain and task.param.numel() >= SMALLEST and job.arithmetic == torch.float32
        return (
            shaped and plain and not isinstance(task.lr, Tensor) and _prints(task) and _installed(task.param.is_meta)
        )

    def run(self, tasks: Iterable[Task]) -> None:
        """Carry out tasks, one launch each."""
        tasks = list(tasks)
        keys = kernels.keys(tasks)
        for task in tasks:
            _launch(task, keys.get(task))
            increment_version([task.param])

    def tolerance(self, task: Task) -> float:
        """Allow for square roots of the CPU, which are not always rounded to nearest."""
        return 64 * torch.finfo(task.job.arithmetic).eps

    def temporaries(self, tasks: Sequence[Task], measured: Callable[[], int]) -> int:
        """Return a byte a column: which of them are chosen."""
        return max(task.job.shape[-1] for task in tasks)


def _prints(task: Task) -> bool:
    job, codec = task.job, task.job.treatment.codec
    rules = printable(job.treatment.full) and (job.treatment.free.idle or printable(job.treatment.free))
    stored = type(task.store) in (Dense, Bf16Stochastic)
    beside = all("_absmax" in kept.codec.raw(kept.slot) for kept in job.kept.values()) if codec.block else True
    blocks = not codec.block or (
        codec.block == NARROW and job.low is not None and job.low[-1] % codec.block == 0 and beside
    )
    return rules and stored and kept_in(codec) and blocks and not any(rule.reads_param for _, rule in job.rules)


@cache
def _installed(planned: bool) -> bool:
    """Return whether triton can be imported; a plan is for a machine that has it."""
    return planned or importlib.util.find_spec("triton") is not None


def _launch(task: Task, keys: Tensor | None) -> None:
    job, t, now = task.job, task.job.treatment, task.now()
    layout = _layout(job, type(task.store) is Bf16Stochastic, task.rounded)
    index, one = task.raw[job.basis[job.part.columns]], _true(task.param.device)
    sound = one if task.sound is None else task.sound.view(torch.int8)
    state = [task.raw[name] for name in (*dict(layout.slots), *layout.beside)]
    numbers = [float(now.full[name]) for name in now.full]
    rates = now.lr, now.lr * t.free_lr_scale, now.decay
    rows, width = job.shape
    tensors = task.param, task.grad, *state, index, _columns(index, width), one if keys is None else keys, sound
    sizes = rows, width, len(index)
    _call(_kernel(layout), (-(-rows // ROWS),), (*tensors, *rates, *numbers, *sizes))


def _call(kernel: Any, grid: tuple[int, ...], given: tuple) -> None:
    kernel[grid](*given, BR=ROWS, BC=WIDE, BK=NARROW, num_warps=4, enable_fp_fusion=False)


@lru_cache(maxsize=4096)
def _layout(job: Any, random: bool, rounded: tuple[str, ...]) -> ColumnsKernel:
    t = job.treatment
    return ColumnsKernel(t.full, t.free, tuple(job.slots.items()), t.codec, random, rounded)


@lru_cache(maxsize=64)
def _true(device: torch.device) -> Tensor:
    return torch.ones(1, dtype=torch.int8, device=device)


def _columns(index: Tensor, width: int) -> Tensor:
    """Return which columns are chosen, int8 [width]; made anew when the indices change."""
    known = _chosen.get(index)
    if known is None or known[0] != index._version:
        chosen = torch.zeros(width, dtype=torch.int8, device=index.device).index_fill_(0, index, 1)
        _chosen[index] = known = index._version, chosen
    return cast(Tensor, known[1])


def _kernel(layout: ColumnsKernel) -> Any:
    text = layout.text()
    return _defined(text, NAME.format(full=type(layout.full).__name__, free=type(layout.free).__name__, number=0))


@lru_cache(maxsize=256)
def _defined(text: str, name: str) -> Any:
    """Run the printed module; triton reads its text again, as tracebacks do, from the cache of lines."""
    name = name.replace(", 0>", f", {len(_texts)}>")
    _texts[name] = text
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    module: dict[str, Any] = {"__name__": "hybridopt.execution.printing.printed"}
    exec(compile(text, name, "exec"), module)
    return module["kernel"]
