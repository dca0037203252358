"""Which kernel there is for an update: its layout, its text, and the sizes that it is told."""

from functools import lru_cache
from math import prod
from typing import Any

import torch

from ...parts.codecs.bf16 import Bf16
from ...parts.codecs.companded8 import Companded8
from ...parts.codecs.fp32 import Fp32
from ...parts.codecs.int8 import Int8
from ...parts.splits._lines import Lines
from ...parts.stores.bf16_split import Bf16Split
from ...parts.stores.bf16_stochastic import Bf16Stochastic
from ...parts.stores.dense import Dense
from ...parts.stores.nonnegative import Nonnegative
from ...policy.job import Job
from .. import state
from ..printing.cpp.kernel import KernelLayout
from ..printing.cpp.rounds import RoundsLayout
from ..printing.cpp.structs import LEVELS
from ..printing.tracing.updates import printable

__all__ = ["Layout", "joined", "layout_of", "sizes_of", "text_of"]

Layout = KernelLayout | RoundsLayout
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
STORES = {  # by store and dtype
    (Dense, "float32"): "float32",
    (Dense, "bfloat16"): "bfloat16",
    (Dense, "float16"): "float16",
    (Nonnegative, "float32"): "float32 nonnegative",
    (Bf16Stochastic, "bfloat16"): "bfloat16 random",
    (Bf16Split, "bfloat16"): "bfloat16 split",
}
LONG = range(1 << 9, 1 << 14)  # columns that joined rows have: enough to work through, and not for one thread alone
LARGEST_BLOCK = 4096  # elements of a block of state: decoded, a few of them stay in a core's caches


@lru_cache(maxsize=1 << 14)
def layout_of(job: Job, store: Any, dtype: torch.dtype, grad: torch.dtype) -> Layout | None:
    """Return the layout of the kernel for a job; None where there is none.

    Args:
        job: the update.
        store: of the weight.
        dtype: of the weight.
        grad: dtype of the gradient.
    """
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
    block = job.treatment.codec.block if LEVELS.keys() & {kind for _, kind in slots} else 0
    if block > LARGEST_BLOCK:
        return None
    return KernelLayout(part, rules.get("full"), rules.get("free"), kept, NAMES[grad], slots, block, rounded)


def _in_rounds(job: Job, weight: str | None, grad: str | None, rounded: tuple[str, ...]) -> RoundsLayout | None:
    """Return the layout of the kernel of a matrix, or of every one of a stack, that one rule looks at in rounds.

    Args:
        job: the update.
        weight: how the weight is kept.
        grad: dtype of the gradient.
        rounded: names of the seeds.

    Returns:
        None where there is none.
    """
    matrix = len(job.shape) > 1 and job.shape[-1] > 1 and job.arithmetic == torch.float32
    slots, whole = _slots(job, True), tuple(name for name, kept in job.kept.items() if not kept.elementwise)
    exact = all(job.kept[name].codec.raw(job.kept[name].slot) == {"": job.kept[name].slot} for name in whole)
    if not matrix or len(job.rules) != 1 or weight is None or grad is None or slots is None or not exact:
        return None
    (axis, rule), (*stack, rows, width) = job.rules[0], job.shape
    own = rule.slots((rows, width))
    if any(kept.slot.shape != (*stack, *own[name].shape) for name, kept in job.kept.items()):
        return None
    block = job.treatment.codec.block if LEVELS.keys() & {kind for _, kind in slots} else 0
    if block > LARGEST_BLOCK or (block and prod(stack) > 1 and rows * width % block):
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
        kind = {Fp32: "float32", Bf16: "bfloat16", Int8: coded, Companded8: f"companded {coded}"}.get(codec)
        if kind is None or kept.slot.dtype != torch.float32 or kept.slot.shape != job.low or not kept.elementwise:
            return None
        found.append((name, kind))
    return tuple(found)


def _part(job: Job) -> str | None:
    if job.part.covers or job.low is None:
        return "flat"
    if type(job.part) is not Lines:
        return None
    return "columns" if job.part.columns else "rows"


@lru_cache(maxsize=1024)
def text_of(layout: Layout) -> str:
    """Return what the compiler is given."""
    return layout.text()


@lru_cache(maxsize=1 << 14)
def joined(job: Job, layout: Layout) -> int:
    """Return how many rows of narrow matrices, such as those of adapters, a kernel takes for one; 1: each by itself.

    The columns chosen are the same in all of them, and state lies row by row. Random bits by row forbid it.

    Args:
        job: the update.
        layout: of its kernel.
    """
    rows, width = prod(job.shape[:-1]), job.shape[-1] if job.shape else 1
    if not isinstance(layout, KernelLayout) or layout.part != "columns" or layout.by_row or width >= LONG.start:
        return 1
    return max((n for n in range(1, min(rows, LONG.stop // width) + 1) if rows % n == 0), default=1)


@lru_cache(maxsize=1 << 14)
def sizes_of(job: Job, layout: Layout) -> tuple[int, int, int]:
    """Return rows, columns, and how many of them are chosen, as a kernel is told of a matrix.

    Args:
        job: the update.
        layout: of its kernel.
    """
    width, together = job.shape[-1] if job.shape else 1, joined(job, layout)
    count = 0 if job.low is None or layout.part == "flat" else job.low[-1 if job.part.columns else -2]
    return prod(job.shape[:-1]) // together, width * together, count * together
