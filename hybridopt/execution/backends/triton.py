"""Updates for which the project prints a Triton kernel: where inductor's take more than one pass over memory."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ...core.contracts import Backend
from ...parts.stores.bf16_stochastic import Bf16Stochastic
from ...parts.stores.dense import Dense
from ..printing.tracing.updates import printable
from ..printing.triton.columns import ColumnsKernel
from ..printing.triton.tiles import kept_in
from ..update_task import Task
from . import _triton_kernels as triton_kernels

__all__ = ["Triton"]

SMALLEST = 1 << 16  # elements
ROWS, WIDE, NARROW = 4, 1024, 256  # of a program: rows, columns at a time, chosen columns at a time
CONSTANTS = {"BR": ROWS, "BC": WIDE, "BK": NARROW, "num_warps": 4}
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
        if task.param.numel() < SMALLEST or isinstance(task.lr, Tensor) or not _prints(task):
            return False
        return task.in_memory and triton_kernels.makeable(_layout_of(task), task.param.is_meta)

    def run(self, tasks: Iterable[Task]) -> None:
        """Carry out tasks, one launch each."""
        triton_kernels.carry_out(tasks, _launched)

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


def _launched(task: Task, keys: Tensor | None) -> bool:
    layout = _layout_of(task)
    return triton_kernels.launched(layout, "state-full columns", partial(_launch, layout, task, keys))


def _launch(layout: ColumnsKernel, task: Task, keys: Tensor | None) -> None:
    job, now = task.job, task.now()
    index, sound = task.raw[job.basis[job.part.columns]], triton_kernels.sound_or_true(task.sound, task.param.device)
    state = [task.raw[name] for name in layout.tiles.state]
    rows, width = job.shape
    tensors = task.param, task.grad, *state, index, _columns(index, width), sound if keys is None else keys, sound
    rates = now.lr, now.lr * job.treatment.free_lr_scale, now.decay
    given = (*tensors, *rates, *now.full.values(), rows, width, len(index))
    triton_kernels.call([triton_kernels.KernelLaunch(_kernel(layout), -(-rows // ROWS), CONSTANTS)], given)


def _layout_of(task: Task) -> ColumnsKernel:
    return _layout(task.job, type(task.store) is Bf16Stochastic, task.rounded)


@lru_cache(maxsize=4096)
def _layout(job: Any, random: bool, rounded: tuple[str, ...]) -> ColumnsKernel:
    t, signed = job.treatment, tuple((name, slot.signed) for name, slot in job.slots.items())
    return ColumnsKernel(t.full, t.free, signed, t.codec, random, rounded)


def _kernel(layout: ColumnsKernel) -> Any:
    title = f"columns of {type(layout.full).__name__} and {type(layout.free).__name__}"
    return triton_kernels.made(layout, title)["kernel"]


def _columns(index: Tensor, width: int) -> Tensor:
    """Return which columns are chosen, int8 [width]; made anew when the indices change."""
    known = _chosen.get(index)
    if known is None or known[0] != index._version:
        chosen = torch.zeros(width, dtype=torch.int8, device=index.device).index_fill_(0, index, 1)
        _chosen[index] = known = index._version, chosen
    return cast(Tensor, known[1])
