"""Updates on a CPU by C++ kernels that the project prints and compiles."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ...core.contracts import Backend
from ...parts.codecs.bf16 import Bf16
from ...parts.codecs.fp32 import Fp32
from ...parts.codecs.int8 import Int8
from ...parts.splits._lines import Lines
from ...parts.stores.bf16_split import Bf16Split
from ...parts.stores.bf16_stochastic import Bf16Stochastic
from ...parts.stores.dense import Dense
from ...parts.stores.nonnegative import Nonnegative
from ...policy.job import Job, declare
from .. import state
from ..cpp import builder
from ..cpp.call import call
from ..cpp.chosen import chosen
from ..printing.cpp_kernel import KernelLayout
from ..printing.cpp_rounds import RoundsLayout
from ..printing.traced import printable, traced
from ..slices import update_in_slices
from ..task import PLAIN, Task

__all__ = ["Cpp"]

NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
STORES = {  # by store and dtype
    (Dense, "float32"): "float32",
    (Dense, "bfloat16"): "bfloat16",
    (Nonnegative, "float32"): "float32 nonnegative",
    (Bf16Stochastic, "bfloat16"): "bfloat16 random",
    (Bf16Split, "bfloat16"): "bfloat16 split",
}
WIDEST = 1 << 15  # chosen columns with state in blocks, which are packed at once
LARGEST_BLOCK = 4096  # elements of a block of state: decoded, a few of them stay in a core's caches


class Cpp(Backend[Task]):
    """Update many parameters by one call of a kernel that reads and writes every number once.

    Kernels are printed from the rules' own `update` and compiled once a machine. Operations are rounded one by one, as
    eager ones are, and random rounding hashes the same counters. Without a compiler it fits nothing.
    """

    name = "cpp"
    rank = 15  # torch's own AdamW is as fast, and costs less Python a parameter
    devices = frozenset({"cpu"})
    compiles = True
    worth_from = 1 << 20  # two seconds once a machine, and from then on a fraction of one in every process
    in_blocks = True

    def fits(self, task: Task) -> bool:
        """Return whether there is a kernel for it, and a compiler to make it."""
        if not task.plain or isinstance(task.lr, Tensor) or isinstance(task.decay, Tensor):
            return False
        if not isinstance(task.grad, Tensor) or (task.before and task.rounded):  # of probes; rows that others count
            return False
        return _layout_of(task) is not None and builder.available() and _in_memory(task)

    def run(self, tasks: Iterable[Task]) -> None:
        """Carry out tasks, those of one kernel and the same numbers by one call."""
        alike: dict[tuple, list[Task]] = {}
        for task in tasks:
            alike.setdefault((_layout_of(task), id(task.job.treatment), *task.alike), []).append(task)
        builder.build(_text(key[0]) for key in alike)
        for (layout, *_), same in alike.items():
            kernel = builder.function(_text(layout))
            if kernel is None:
                for task in same:
                    update_in_slices(task)
            else:
                _call(kernel, layout, same)
            increment_version([task.param for task in same])

    def tolerance(self, task: Task) -> float:
        """Return 0 where every operation has one result; square roots of the CPU are not always rounded to nearest."""
        layout = _layout_of(task)
        if task.job.rounds:
            return 64 * torch.finfo(torch.float32).eps
        roots = layout is not None and "uint8" in dict(layout.slots).values()
        lines = [text for _, rule in task.job.rules if not rule.idle for _, text in traced(rule).lines]
        return 64 * torch.finfo(torch.float32).eps if roots or any("sqrt_" in text for text in lines) else 0.0

    def temporaries(self, tasks: Sequence[Task], measured: Callable[[], int]) -> int:
        """Return what a kernel is told of chosen columns, a bit each, or rows, eight bytes each."""
        found = sum(8 * max(task.job.shape) for task in tasks if type(task.job.part) is Lines)
        layouts = [(_layout_of(task), task.job.shape) for task in tasks if task.job.rounds]
        return found + sum(4 * layout.room(*shape) for layout, shape in layouts if isinstance(layout, RoundsLayout))


def _layout_of(task: Task) -> KernelLayout | RoundsLayout | None:
    store: Any = task.store
    return _layout(task.job, store, task.param.dtype, task.grad.dtype)


@lru_cache(maxsize=1 << 14)
def _layout(job: Job, store: Any, dtype: torch.dtype, grad: torch.dtype) -> KernelLayout | RoundsLayout | None:
    """Return the layout of the kernel for a job; None where there is none."""
    random = store.random or job.treatment.codec.random
    rounded = state.rounded(job, store.random) if random else ()
    kept = STORES.get((type(store), NAMES.get(dtype, "")))
    if job.rounds:
        return _in_rounds(job, kept, NAMES.get(grad), rounded)
    slots = _slots(job)
    part = _part(job)
    if kept is None or grad not in NAMES or slots is None or part is None or job.arithmetic != torch.float32:
        return None
    rules = dict(job.rules)
    if not all(rule.idle or printable(rule) for rule in rules.values()):
        return None
    block = job.treatment.codec.block if {"int8", "uint8"} & {kind for _, kind in slots} else 0
    if block and not _blocks_fit(job, part, block):
        return None
    return KernelLayout(part, rules.get("full"), rules.get("free"), kept, NAMES[grad], slots, block, rounded)


def _in_rounds(job: Job, weight: str | None, grad: str | None, rounded: tuple[str, ...]) -> RoundsLayout | None:
    """Return the layout of the kernel of a matrix that one rule looks at in rounds; None where there is none.

    Args:
        job: the update.
        weight: how the weight is kept.
        grad: dtype of the gradient.
        rounded: names of the seeds.
    """
    matrix = len(job.shape) == 2 and job.shape[1] > 1 and job.arithmetic == torch.float32
    slots, whole = _slots(job, True), tuple(name for name, kept in job.kept.items() if not kept.elementwise)
    exact = all(job.kept[name].codec.raw(job.kept[name].slot) == {"": job.kept[name].slot} for name in whole)
    if not matrix or len(job.rules) != 1 or weight is None or grad is None or slots is None or not exact:
        return None
    (axis, rule), (rows, width) = job.rules[0], job.shape
    block = job.treatment.codec.block if {"int8", "uint8"} & {kind for _, kind in slots} else 0
    if block and (width % block or block > LARGEST_BLOCK):
        return None
    one = 1 if rows == 1 else None
    made = (
        RoundsLayout(rule, axis, x, weight, grad, slots, whole, block, rounded) for x in _sizes_of(one, rows, width)
    )
    return next((layout for layout in made if layout.rounds is not None), None)


def _sizes_of(one: int | None, rows: int, width: int) -> tuple[tuple[int | None, int | None], ...]:
    """Return for which sizes a kernel is tried: any, then those that a rule may be made for."""
    return (one, None), (rows, None), (one, width)


def _slots(job: Job, elements: bool = False) -> tuple[tuple[str, str], ...] | None:
    """Return the names of the state, and how each is kept; None where one is kept in another way."""
    found = []
    for name, kept in job.kept.items():
        if elements and not kept.elementwise:
            continue
        raw = kept.codec.raw(kept.slot)
        codec = Fp32 if raw == {"": kept.slot} else type(kept.codec)
        coded = "int8" if kept.slot.signed else "uint8"
        kind = {Fp32: "float32", Bf16: "bfloat16", Int8: coded}.get(codec)
        if kind is None or kept.slot.dtype != torch.float32 or kept.slot.shape != job.low or not kept.elementwise:
            return None
        found.append((name, kind))
    return tuple(found)


def _in_memory(task: Task) -> bool:
    """Return whether all tensors lie in memory as a kernel reads them, which takes addresses and asks nothing more.

    A state may have been changed by hand, and gradients may stand for numbers that are elsewhere.
    """
    where = task.param.device
    if not (_plain(task.param, where) and _plain(task.grad, where)):
        return False
    for name, count, dtype in _declared(task.job):
        x = task.raw[name]
        if x.dtype is not dtype or x.numel() != count or not _plain(x, where):
            return False
    return True


def _plain(x: Tensor, where: torch.device) -> bool:
    memory = type(x) in PLAIN and x.is_contiguous() and x.device == where
    return memory and not x.is_neg() and not x._is_zerotensor()


@lru_cache(maxsize=1 << 14)
def _declared(job: Job) -> tuple[tuple[str, int, torch.dtype], ...]:
    return tuple((name, prod(slot.shape), slot.dtype) for name, slot in declare(job).items())


def _part(job: Job) -> str | None:
    if job.part.covers or job.low is None:
        return "flat"
    if type(job.part) is not Lines:
        return None
    return "columns" if job.part.columns else "rows"


def _blocks_fit(job: Job, part: str, block: int) -> bool:
    """Return whether blocks of state can be done piece by piece."""
    width = 0 if part == "flat" or job.low is None else job.low[-1]
    return width % block == 0 and width <= WIDEST and block <= LARGEST_BLOCK


@lru_cache(maxsize=1024)
def _text(layout: KernelLayout | RoundsLayout) -> str:
    return layout.text()


def _call(kernel: Callable[..., None], layout: KernelLayout | RoundsLayout, tasks: list[Task]) -> None:
    one = tasks[0]
    now: Any = one.now()
    rates = now.lr, now.lr * one.job.treatment.free_lr_scale, now.decay
    told = [x for axis, rule in one.job.rules if not rule.idle for x in getattr(now, axis).values()]
    tensors, sizes, keys = [], [], list[list[Any]]()
    names = layout.state
    for task in tasks:
        raw = [task.raw[name] for name in names]
        if layout.part != "flat":
            raw.append(chosen(task.raw[task.job.basis["index"]], task.job))
        tensors.append([task.param, task.grad, *raw])
        sizes.append(_sizes(task.job))
        seeds = task.seeds() if layout.rounded else {}
        keys.append([seeds[name].key for name in layout.rounded])
    widest = max(width for _, width, _ in sizes) if layout.rounded else 0
    call(kernel, tensors, sizes, keys, (*rates, *told), widest)


@lru_cache(maxsize=1 << 14)
def _sizes(job: Job) -> tuple[int, int, int]:
    """Return rows, columns, and how many of them are chosen."""
    width = job.shape[-1] if job.shape else 1
    count = 0 if job.low is None or _part(job) == "flat" else job.low[-1 if job.part.columns else -2]
    return prod(job.shape[:-1]), width, count
