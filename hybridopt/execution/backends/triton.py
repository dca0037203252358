"""Updates for which the project prints a Triton kernel: where inductor's take more than one pass over memory."""

import importlib.util
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.utils.weak import WeakTensorKeyDictionary

from ...core.contracts import Backend
from ...core.errors import HybridOptWarning
from ...core.numerics.compiling import reason
from ...parts.stores.bf16_stochastic import Bf16Stochastic
from ...parts.stores.dense import Dense
from ..printing.defined import defined
from ..printing.traced import printable
from ..printing.triton_columns import ColumnsKernel, kept_in
from ..slices import update_in_slices
from ..task import Task
from . import _compiled_kernels as kernels

__all__ = ["Triton"]

SMALLEST = 1 << 16  # elements
ROWS, WIDE, NARROW = 4, 1024, 256  # of a program: rows, columns at a time, chosen columns at a time
_worked: set[ColumnsKernel] = set()
_broken: set[ColumnsKernel] = set()  # kernels that cannot be made here
_chosen: Any = WeakTensorKeyDictionary()  # by the tensor of indices: its version, and which columns it names


class Triton(Backend[Task]):
    """Update chosen columns by one rule and the others by another in a single pass (FRUGAL's default split).

    The kernel is printed from the rules' own `update`, and gives the bits of the eager update: operations are rounded
    one by one, and random rounding hashes the same counters. Where it cannot be made, it warns, and goes on without.
    """

    name = "triton"
    rank = 25
    devices = frozenset({"cuda"})
    compiles = True
    heeds_sound = True

    def fits(self, task: Task) -> bool:
        """Return whether it is a large matrix of which columns are state-full, by rules and codecs that print."""
        job = task.job
        if not (job.part.columns and len(job.shape) == 2 and job.separate and job.arithmetic == torch.float32):
            return False
        plain = task.plain and task.param.numel() >= SMALLEST and not isinstance(task.lr, Tensor)
        return plain and _prints(task) and _installed(task.param.is_meta) and _layout_of(task) not in _broken

    def run(self, tasks: Iterable[Task]) -> None:
        """Carry out tasks, one launch each."""
        tasks = list(tasks)
        keys = kernels.keys(tasks)
        for task in tasks:
            layout = _layout_of(task)
            done = layout not in _broken and _launched(layout, task, keys.get(task))
            if not done:
                update_in_slices(task)
            increment_version([task.param])

    def tolerance(self, task: Task) -> float:
        """Allow for square roots of the CPU, which are not always rounded to nearest."""
        return 64 * torch.finfo(task.job.arithmetic).eps

    def temporaries(self, tasks: Sequence[Task], measured: Callable[[], int]) -> int:
        """Return a byte a column: which of them are chosen."""
        return max(task.job.shape[-1] for task in tasks)


def _prints(task: Task) -> bool:
    """Return whether there are lines for its rules, its codec and its store."""
    job, t = task.job, task.job.treatment
    rules = printable(t.full) and (t.free.idle or printable(t.free)) and not (t.full.reads_param or t.free.reads_param)
    return rules and type(task.store) in (Dense, Bf16Stochastic) and kept_in(t.codec) and _blocks_fit(job)


def _blocks_fit(job) -> bool:
    """Return whether state in blocks has whole ones in every row of the chosen columns, each done at once."""
    if not job.treatment.codec.block:
        return True
    coded = all("_absmax" in kept.codec.raw(kept.slot) for kept in job.kept.values())
    return coded and job.treatment.codec.block == NARROW and job.low[-1] % NARROW == 0


@cache
def _installed(planned: bool) -> bool:
    """Return whether triton can be imported; a plan is for a machine that has it."""
    return planned or importlib.util.find_spec("triton") is not None


def _launched(layout: ColumnsKernel, task: Task, keys: Tensor | None) -> bool:
    """Launch the kernel of a task; where it cannot be made, warn, change nothing, and return False."""
    try:
        _launch(layout, task, keys)
    except Exception as error:  # triton's own, or of a compiler that it calls
        if layout in _worked:
            raise
        _give_up(layout, error)
        return False
    _worked.add(layout)
    return True


def _launch(layout: ColumnsKernel, task: Task, keys: Tensor | None) -> None:
    job, now = task.job, task.now()
    index, one = task.raw[job.basis[job.part.columns]], _true(task.param.device)
    sound = one if task.sound is None else task.sound.view(torch.int8)
    state = [task.raw[name] for name in (*dict(layout.slots), *layout.beside)]
    rows, width = job.shape
    tensors = task.param, task.grad, *state, index, _columns(index, width), one if keys is None else keys, sound
    rates = now.lr, now.lr * job.treatment.free_lr_scale, now.decay
    sizes = rows, width, len(index)
    _call(_kernel(layout), (-(-rows // ROWS),), (*tensors, *rates, *now.full.values(), *sizes))


def _call(kernel: Any, grid: tuple[int, ...], given: tuple) -> None:
    kernel[grid](*given, BR=ROWS, BC=WIDE, BK=NARROW, num_warps=4, enable_fp_fusion=False)


def _layout_of(task: Task) -> ColumnsKernel:
    return _layout(task.job, type(task.store) is Bf16Stochastic, task.rounded)


@lru_cache(maxsize=4096)
def _layout(job: Any, random: bool, rounded: tuple[str, ...]) -> ColumnsKernel:
    t, signed = job.treatment, tuple((name, slot.signed) for name, slot in job.slots.items())
    return ColumnsKernel(t.full, t.free, signed, t.codec, random, rounded)


@lru_cache(maxsize=256)
def _kernel(layout: ColumnsKernel) -> Any:
    return defined(layout.text(), f"columns of {type(layout.full).__name__} and {type(layout.free).__name__}")


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


def _give_up(layout: ColumnsKernel, error: Exception) -> None:
    _broken.add(layout)
    warnings.warn(
        f"the Triton kernel of state-full columns cannot be made ({reason(error)}), so steps are slower, with the "
        "same results. Install a C compiler and the triton that torch was built with, or pass compile=False",
        HybridOptWarning,
        stacklevel=7,
    )
