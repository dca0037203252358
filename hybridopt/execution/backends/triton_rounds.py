"""Rules that look at their whole matrix in rounds, on accelerators by Triton kernels that the project prints."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...core.contracts import Backend
from ...parts.stores.bf16_stochastic import Bf16Stochastic
from ...parts.stores.dense import Dense
from ...policy.job import EXACT, Job
from ..printing.triton.launch import Launch
from ..printing.triton.rounds import RoundsKernels
from ..printing.triton.tiles import kept_in
from ..update_task import Task
from . import _triton_kernels as triton_kernels

__all__ = ["TritonRounds"]

BLOCK = 256  # columns of a tile, and codes of a block of state
TALL, SHORT = 1 << 13, 1 << 11  # rows from which a program of a look has more of them, or fewer
WIDEST = 1 << 23
COUNTED = 1 << 31  # numbers between kernels, which count them in 32 bits; elements are counted in 64
FOLDED = 1 << 14  # rows up to which every program of a kernel may add up vectors by row: they stay in its cache
_there: set[tuple] = set()  # forms of tasks for which kernels have been made
SETTLE = {"BW": 64, "BP": 32, "BS": 2048, "num_warps": 8}  # columns of a program, lines and entries at once


class TritonRounds(Backend[Task]):
    """Update a matrix by a rule with rounds: a kernel reads it once a look, one ends the round, one writes.

    AdaLomo is four kernels: where there are few rows, the next one begins with what ends a round by sums alone. A
    rule whose rows go by themselves, such as Adam-mini's, is one. Printed from the rule's own methods; sums are added
    in one order, whatever the device is busy with, so that every run has the same bits.
    """

    name = "triton_rounds"
    rank = 26
    devices = frozenset({"cuda"})
    compiles = True
    heeds_sound = True

    def fits(self, task: Task) -> bool:
        """Return whether it is a matrix that one rule looks at, by a rule, a codec and a store that print."""
        if not task.job.rounds or isinstance(task.lr, Tensor):
            return False
        if type(task.store) not in (Dense, Bf16Stochastic) or (task.before and task.rounded):
            return False
        if _layout_of(task) is None or not task.in_memory:
            return False
        return triton_kernels.makeable(_form(task), task.param.is_meta)

    def run(self, tasks: Iterable[Task]) -> None:
        """Carry out tasks one after the other."""
        triton_kernels.carry_out(tasks, _launched)

    def tolerance(self, task: Task) -> float:
        """Allow for sums in another order."""
        return 64 * torch.finfo(task.job.arithmetic).eps

    def temporaries(self, tasks: Sequence[Task], measured: Callable[[], int]) -> int:
        """Return what kernels hand on: vectors by row and by column, and a line of each program of a look."""
        return max(4 * sum(_scratch(layout, *task.job.shape)) for task in tasks if (layout := _layout_of(task)))


def _launched(task: Task, keys: Tensor | None) -> bool:
    made = _made(task, keys)
    if made:
        _launch(task, keys, triton_kernels.sound_or_true(task.sound, task.param.device))
    return made


def _made(task: Task, keys: Tensor | None) -> bool:
    """Return whether there are all kernels of a task; those that are not there yet are made, and change nothing."""
    form, layout = _form(task), _layout_of(task)
    if form in _there or layout is None:
        return layout is not None
    what = f"{type(layout.rule).__name__}, a rule with rounds,"
    if triton_kernels.launched(form, what, partial(_launch, task, keys, triton_kernels.false(task.param.device))):
        _there.add(form)
    return form in _there


def _launch(task: Task, keys: Tensor | None, sound: Tensor) -> None:
    """Launch the kernels of a task.

    Args:
        task: whose layout there is.
        keys: of what is rounded at random.
        sound: 0 where nothing may change, int8 [1].
    """
    (axis, _), (rows, width), now, layout = task.job.rules[0], task.job.shape, task.now(), _layout_of(task)
    assert layout is not None
    state = [task.raw[name] for name in (*layout.tiles.state, *layout.settled)]
    room, parted = (torch.empty(n, device=task.param.device) for n in _scratch(layout, rows, width))
    tensors = task.param, task.grad, *state, room, parted, sound if keys is None else keys, sound
    rate = now.lr if axis == "full" else now.lr * task.job.treatment.free_lr_scale
    numbers = map(float, (rate, now.decay, *getattr(now, axis).values(), rows, width))
    made = triton_kernels.made(layout, f"{type(layout.rule).__name__} in rounds")
    launches = [triton_kernels.KernelLaunch(made[one.name], *_programs(one, rows, width)) for one in layout.launches]
    triton_kernels.call(launches, (*tensors, *numbers, rows, width, _parts(rows)))


def _form(task: Task) -> tuple:
    """Return all that its kernels are compiled for."""
    return _layout_of(task), task.job.shape, task.param.dtype, task.grad.dtype, task.param.device


def _scratch(layout: RoundsKernels, rows: int, width: int) -> tuple[int, int]:
    """Return how many numbers kernels keep for each other, and programs of a look for what ends the round."""
    return layout.room(rows, width), layout.parted(rows, width, _parts(rows))


def _tall(rows: int) -> int:
    """Return how many rows a program of a look has: enough programs for a device, and few lines to add up."""
    return 32 if rows >= TALL else 16 if rows >= SHORT else 8


def _parts(rows: int) -> int:
    return -(-rows // _tall(rows))


def _programs(one: Launch, rows: int, width: int) -> tuple[int, dict[str, int]]:
    """Return how many programs a kernel has for a matrix, and its constants."""
    if one.kind == "settle":
        return one.rows + (-(-width // SETTLE["BW"]) if one.columns else 0), SETTLE
    tall = _tall(rows) if one.kind == "look" else 8
    programs = -(-rows // tall) * (-(-width // BLOCK) if one.kind == "tiles" else 1)
    sums = {"BS": SETTLE["BS"]} if one.folded else {}
    return programs, {"BR": tall, "BC": BLOCK, **sums, "num_warps": max(4, tall // 4)}


def _layout_of(task: Task) -> RoundsKernels | None:
    return _layout(task.job, type(task.store) is Bf16Stochastic, task.rounded)


@lru_cache(maxsize=4096)
def _layout(job: Job, random: bool, rounded: tuple[str, ...]) -> RoundsKernels | None:
    """Return the layout of the kernels of a job; None where there is none."""
    matrix = len(job.shape) == 2 and 1 < job.shape[1] <= WIDEST and job.arithmetic == torch.float32
    if not matrix or len(job.rules) != 1 or job.beside or not prod(job.shape):
        return None
    ((_, rule),), (rows, width) = job.rules, job.shape
    slots = tuple((name, kept.slot.signed) for name, kept in job.kept.items() if kept.elementwise)
    whole = tuple(name for name, kept in job.kept.items() if not kept.elementwise)
    codec = _codec(job, width)
    if codec is None or any(job.kept[name].codec.raw(job.kept[name].slot).keys() != {""} for name in whole):
        return None
    one = 1 if rows == 1 else None
    sizes = (one, None), (rows, None), (one, width)
    short = rows <= FOLDED
    made = (RoundsKernels(rule, fixed, slots, codec, whole, random, rounded, short) for fixed in sizes)
    found = next((layout for layout in made if layout.rounds is not None), None)
    return found if found is not None and max(_scratch(found, rows, width)) < COUNTED else None


def _codec(job: Job, width: int) -> Any:
    """Return what keeps the state of the elements, all in one way; None where there are no lines for it."""
    found = [kept for kept in job.kept.values() if kept.elementwise]
    if all(kept.codec.raw(kept.slot) == {"": kept.slot} for kept in found):
        return EXACT
    coded = all("_absmax" in kept.codec.raw(kept.slot) for kept in found)
    codec = job.treatment.codec
    return codec if coded and kept_in(codec) and codec.block == BLOCK and width % BLOCK == 0 else None
