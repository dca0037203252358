"""The update of columns, state-full ones and the rest, in one pass: a Triton kernel's text.

A program has some rows. It goes over all of their columns once, with the state-free rule and wide accesses, and leaves
the chosen ones as they are; then it goes over the chosen ones, whose weights and gradients are still in the cache,
with their state packed beside each other. So weights and gradients travel once.
"""

from dataclasses import dataclass

from ....core.contracts import Codec, Rule
from ..tracing.updates import Traced, traced
from .tiles import Tiles, deeper

__all__ = ["ColumnsKernel"]

HEAD = '''"""Printed from {full} and {free}."""

import triton
import triton.language as tl

from hybridopt.execution.printing.triton.prelude import *


@triton.jit
def kernel({arguments}, BR: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr):
    if tl.load(ok) == 0:
        return
    row = tl.program_id(0) * BR + tl.arange(0, BR)
    some = row[:, None] < rows
    base = row[:, None].to(tl.int64)
'''


@dataclass(frozen=True)
class ColumnsKernel:
    """What the kernel depends on.

    Args:
        full: the rule of the chosen columns.
        free: the rule of the others; of one that is idle weights only decay.
        slots: the names of the state, and whether it may be negative.
        codec: what keeps the state.
        random: is the weight rounded at random? Else to nearest.
        rounded: names of the seeds in the order of their keys.
    """

    full: Rule
    free: Rule
    slots: tuple[tuple[str, bool], ...]
    codec: Codec
    random: bool
    rounded: tuple[str, ...]

    @property
    def tiles(self) -> Tiles:
        """Return how state and weights of chosen columns are kept."""
        return Tiles(self.slots, self.codec, self.random, self.rounded, "count", "BK")

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return the names of the kernel's arguments, in order."""
        state = tuple(f"state_{name}" for name in self.tiles.state)
        numbers = tuple(f"n_{name}" for name in traced(self.full).numbers)
        tensors = ("param", "grad", *state, "index", "chosen", "keys", "ok")
        return (*tensors, "lr", "free_lr", "decay", *numbers, "rows", "width", "count")

    def text(self) -> str:
        """Return the module in which the kernel is defined."""
        head = HEAD.format(
            full=type(self.full).__name__, free=type(self.free).__name__, arguments=", ".join(self.arguments)
        )
        return head + _indented([*self._of_all(), "tl.debug_barrier()", *self._of_chosen()])

    def _of_all(self) -> list[str]:
        """Return the pass over all columns with the state-free rule."""
        loop = [
            "col = start + tl.arange(0, BC)",
            "inside = col < width",
            "mine = tl.load(chosen + col, mask=inside, other=1) != 0",
            "at = base * width + col[None, :]",
            "mask = some & inside[None, :]",
            "before = tl.load(param + at, mask=mask, other=0.0)",
            "p = before.to(tl.float32)",
            *self._free_direction(),
            self.tiles.rounding("x", "col"),
            "tl.store(param + at, tl.where(mine[None, :], before, weight.to(before.dtype)), mask=mask)",
        ]
        return [*self.tiles.key(""), "for start in range(0, width, BC):", *deeper(loop)]

    def _free_direction(self) -> list[str]:
        if self.free.idle:
            return ["x = p * decay"]
        rule = traced(self.free).renamed("f_")
        load = "g = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32)"
        return [load, *_lines(rule), f"x = p * decay - {rule.direction} * free_lr"]

    def _of_chosen(self) -> list[str]:
        """Return the pass over the chosen columns with the state-full rule."""
        rule = traced(self.full)
        loop = [
            "pos = start + tl.arange(0, BK)",
            "valid = pos < count",
            "at = base * width + tl.load(index + pos, mask=valid, other=0)[None, :]",
            "own = base * count + pos[None, :]",
            "mask = some & valid[None, :]",
            "before = tl.load(param + at, mask=mask, other=0.0)",
            "p = before.to(tl.float32)",
            "g = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32)",
            *self.tiles.loaded(dict(self.slots)),
            *_lines(rule),
            f"x = p * decay - {rule.direction} * lr",
            self.tiles.rounding("x", "pos"),
            "tl.store(param + at, weight.to(before.dtype), mask=mask)",
            *self.tiles.stored(rule.state),
        ]
        return [*self.tiles.key("low"), "for start in range(0, count, BK):", *deeper(loop)]


def _lines(rule: Traced) -> list[str]:
    return [f"{name} = {text}" for name, text in rule.lines]


def _indented(lines: list[str]) -> str:
    return "".join(f"    {line}\n" for line in lines)
