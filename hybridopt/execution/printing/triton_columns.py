"""The update of columns, state-full ones and the rest, in one pass: a Triton kernel's text.

A program has some rows. It goes over all of their columns once, with the state-free rule and wide accesses, and leaves
the chosen ones as they are; then it goes over the chosen ones, whose weights and gradients are still in the cache,
with their state packed beside each other. So weights and gradients travel once.
"""

from dataclasses import dataclass

from ...core.contracts import Codec, Rule
from ...parts.codecs.fp32 import Fp32
from ...parts.codecs.int8 import Int8
from .traced import Traced, traced

__all__ = ["ColumnsKernel", "kept_in"]

HEAD = '''"""Printed from {full} and {free}."""

import triton
import triton.language as tl

from hybridopt.execution.printing.triton_prelude import *


@triton.jit
def kernel({arguments}, BR: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr):
    if tl.load(ok) == 0:
        return
    row = tl.program_id(0) * BR + tl.arange(0, BR)
    some = row[:, None] < rows
    base = row[:, None].to(tl.int64)
'''
STORE = {True: "stochastic_bf16({x}, bits16({hash}))", False: "{x}"}  # rounded at random, or by the cast of a store


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
    def beside(self) -> tuple[str, ...]:
        """Return the names of raw tensors with a number for every block of the state."""
        return tuple(f"{name}_absmax" for name, _ in self.slots) if type(self.codec) is Int8 else ()

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return the names of the kernel's arguments, in order."""
        state = tuple(f"state_{name}" for name in (*dict(self.slots), *self.beside))
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
            self._rounded("x", "weight", "row_hash(row, low, high)[:, None] ^ column_hash(col)[None, :]"),
            "tl.store(param + at, tl.where(mine[None, :], before, weight.to(before.dtype)), mask=mask)",
        ]
        return [*self._key(""), "for start in range(0, width, BC):", *_deeper(loop)]

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
            *[line for name, signed in self.slots for line in _loaded(self.codec, name, signed)],
            *_lines(rule),
            f"x = p * decay - {rule.direction} * lr",
            self._rounded("x", "weight", "row_hash(row, low, high)[:, None] ^ column_hash(pos)[None, :]"),
            "tl.store(param + at, weight.to(before.dtype), mask=mask)",
            *[line for name, signed in self.slots if name in rule.state for line in self._stored(name, signed, rule)],
        ]
        return [*self._key("low"), "for start in range(0, count, BK):", *_deeper(loop)]

    def _stored(self, name: str, signed: bool, rule: Traced) -> list[str]:
        """Return the lines that keep the new value of a slot."""
        value = rule.state[name]
        if type(self.codec) is Fp32:
            return [f"tl.store(state_{name} + own, {value}, mask=mask)"]
        top = 127.0 if signed else 255.0
        seen = value if signed else f"sqrt_({value})"
        level = "min_(max_(level, -127.0), 127.0)" if signed else "tl.where(z > 0, min_(max_(level, 1.0), 255.0), 0.0)"
        kind = "tl.int8" if signed else "tl.int32).to(tl.uint8"
        return [
            f"z = tl.where(mask, {seen}, 0.0)",
            "most = tl.max(tl.abs(z), 1)",
            f"tl.store(state_{name}_absmax + block, most, mask=row < rows)",
            f"scale = (div_(most * 0 + 1.0, max_(most, 1.1754943508222875e-38)) * {top})[:, None]",  # as torch
            f"first, second = halves(keys, {self.rounded.index(name)})",
            "hashed = row_hash(block, first, second)[:, None] ^ column_hash(tl.arange(0, BK))[None, :]",
            "level = stochastic_level(z * scale, bits16(hashed))",
            f"tl.store(state_{name} + own, ({level}).to({kind}), mask=mask)",
        ]

    def _key(self, seed: str) -> list[str]:
        return [f"low, high = halves(keys, {self.rounded.index(seed)})"] if self.random else []

    def _rounded(self, x: str, name: str, hashed: str) -> str:
        return f"{name} = " + STORE[self.random].format(x=x, hash=hashed)


def kept_in(codec: Codec) -> bool:
    """Return whether there are lines for this codec."""
    return type(codec) in (Fp32, Int8)


def _loaded(codec: Codec, name: str, signed: bool) -> list[str]:
    """Return the lines that decode a slot."""
    if type(codec) is Fp32:
        return [f"s_{name} = tl.load(state_{name} + own, mask=mask, other=0.0)"]
    top = 127.0 if signed else 255.0
    return [
        "block = row * (count // BK) + start // BK",
        f"most = tl.load(state_{name}_absmax + block, mask=row < rows, other=0.0)",
        f"level = tl.load(state_{name} + own, mask=mask, other=0).to(tl.float32)",
        f"s_{name} = level * div_(most, most * 0 + {top})[:, None]",
        *([] if signed else [f"s_{name} = s_{name} * s_{name}"]),
    ]


def _lines(rule: Traced) -> list[str]:
    return [f"{name} = {text}" for name, text in rule.lines]


def _deeper(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _indented(lines: list[str]) -> str:
    return "".join(f"    {line}\n" for line in lines)
