"""The whole text of a C++ kernel: a rule's loop, put into the skeleton of `execution/cpp/skeleton`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ....core.contracts import Rule
from ..tracing.updates import traced
from . import parts, structs
from .loops import loop
from .structs import LEVELS, ROOTS

__all__ = ["KernelLayout"]

HEAD = """\
// Printed from {title}.
#include "chunks.h"
#include "codes.h"
#include "columns.h"

enum {{ {tensors} }};
static const int BLOCK = {block};  // elements that share a scale
static const int PIECE = {piece};  // elements at a time
static const i64 CHUNK = {chunk}, LONGEST = {longest};  // elements that a thread takes at a time
"""
TURN, OF_16_BITS = 512, 256  # elements of one place, before another one has its turn; of weights of 16 bits
PIECE = 2048  # elements at a time: what waits for being written stays in the first cache
PACKED = 512  # columns of which the chosen ones are packed at a time: a core reads ahead while it works on those
CHUNK, LONGEST = 1 << 15, 1 << 18  # elements that a thread takes at a time, where there are few and where many
RATES = ("lr", "free_lr", "decay")
OWN_COLUMN = "(own - row * task.count)"  # among the chosen ones


@dataclass(frozen=True)
class KernelLayout:
    """What a kernel's text depends on.

    Args:
        part: "flat": one rule for every element; "columns" or "rows": `full` for those chosen, `free` for the others.
        full: the state-full rule; None where there is none.
        free: the state-free rule; of one that is idle weights only decay; None where there is none.
        weight: how weights are kept: "float32", "float32 nonnegative", "float16", "bfloat16", "bfloat16 random"
            (rounded at random) or "bfloat16 split".
        grad: dtype of the gradient, "float32", "float16" or "bfloat16".
        slots: the names of the state, and how each is kept: "float32", "bfloat16" or one of LEVELS.
        block: elements that share a scale; 0 where none do.
        rounded: names of the seeds in the order of their keys.
    """

    part: str
    full: Rule | None
    free: Rule | None
    weight: str
    grad: str
    slots: tuple[tuple[str, str], ...]
    block: int
    rounded: tuple[str, ...]
    looks_first = False

    @property
    def state(self) -> tuple[str, ...]:
        """Return the names of the raw tensors of the state, in order."""
        raw = [name + x for name, kept in self.slots for x in (("", "_absmax") if kept in LEVELS else ("",))]
        return (*raw, "weight.low") if self.weight == "bfloat16 split" else tuple(raw)

    @property
    def title(self) -> str:
        """Return what the kernel is, in words."""
        rules = [type(rule).__name__ for rule in (self.full, self.free) if rule is not None]
        return f"{' and '.join(rules)}: {self.part}, weights {self.weight}, gradients {self.grad}"

    @property
    def by_row(self) -> bool:
        """Return whether something is rounded by random bits that go by row and column."""
        return self._random or any(kept == "bfloat16" for _, kept in self.slots)

    def text(self) -> str:
        """Return the text that the compiler is given."""
        tensors = ["PARAM", "GRAD", *(f"STATE_{name.upper()}" for name in self.state if name != "weight.low")]
        tensors += ["LOW"] * (self.weight == "bfloat16 split") + ["CHOSEN"] * (self.part != "flat")
        turn = TURN if self._kept == "float32" else OF_16_BITS
        most = PIECE if self.block else {"flat": turn, "columns": PACKED}.get(self.part, PIECE)
        piece = self.block * max(1, most // self.block) if self.block else most
        chunk = piece * max(1, CHUNK // piece)
        sizes = {"block": self.block, "piece": piece, "chunk": chunk, "longest": max(chunk, LONGEST)}
        head = HEAD.format(title=self.title, tensors=", ".join(tensors), **sizes)
        printed: dict[str, Callable[[], str]] = {"flat": self._flat, "rows": self._rows, "columns": self._columns}
        return "\n".join([head, *self._loops(), printed[self.part]()])

    # ---- loops

    def _rule(self, axis: str) -> Rule | None:
        """Return the rule of an axis; None where there is none, or weights only decay."""
        rule: Rule | None = getattr(self, axis)
        return None if rule is None or rule.idle else rule

    def _loops(self) -> list[str]:
        """Return the loops of both rules; numbers of the state-free one come after those of the other."""
        result = "max_({x}, 0.f)" if self.weight == "float32 nonnegative" else "{x}"
        roots = [name for name, kept in self.slots if kept in ROOTS]
        skipped: tuple[str, ...] = ()
        out = []
        for axis, rate in (("full", "lr"), ("free", "free_lr")):
            here = self._rule(axis)
            rule = None if here is None else traced(here)
            own = () if rule is None else tuple(f"n_{name}" for name in rule.numbers)
            each = "in_blocks" if axis == "full" and self._coded else "in_lanes"
            each = "in_order" if self.part == "columns" and axis == "free" else each
            if getattr(self, axis) is not None:
                out.append(loop(f"{axis}_loop", rule, rate, [*RATES, *skipped, *own], result, roots, each))
            skipped = ("",) * len(own)
        return out

    # ---- parts

    def _flat(self) -> str:
        axis = "free" if self.full is None else "full"
        seeds = [""] * self._random + [name for name, kept in self.slots if kept == "bfloat16"]
        if not seeds:  # of codes in one piece, as what waits is written beside the next block
            return parts.flat(self._span(axis, "at", ""), *((1, "LONGEST") if self.block else ()))
        bits = [
            f"random_bits(bits_{seed or 'weight'}, at + before, n, task.width, {self._key(seed)}, given.columns);"
            for seed in seeds
        ]
        made = [f"alignas(64) u32 bits_{seed or 'weight'}[PIECE];" for seed in seeds]
        made += ["const i64 before = task.first * task.width;", *bits]
        made += self._span(axis, "at", "made")
        if self.block:
            return parts.flat(made, places=1)
        return parts.flat_in_rows(made, self._span(axis, "at", "row"))

    def _rows(self) -> str:
        full = self._span("full", "own", "place", "low")
        return parts.rows(full, self._span("free", "at", "row"), self._blocks())

    def _columns(self) -> str:
        bits = self._bits("row", "", "count", OWN_COLUMN)
        mixed = f"Mixed{{{self._bits('row', '')('')}, {bits('low')}}}" if self._random else ""
        weight, grad = structs.weight(self._kept, "at", mixed), structs.grad(self.grad, "at")
        full = self._span("full", "own", "row", packed=True)
        free = self._call("free", "n", f"with_chosen({weight}, low, mask, &next)", grad, ())
        return parts.columns(weight, grad, full, free, self._blocks())

    # ---- lines

    @property
    def _kept(self) -> str:
        return self.weight.removesuffix(" nonnegative")

    @property
    def _coded(self) -> dict[str, str]:
        """Return how the slots are kept that have blocks of codes, by name."""
        return {name: kept for name, kept in self.slots if kept in LEVELS}

    @property
    def _random(self) -> bool:
        return self.weight == "bfloat16 random"

    def _key(self, seed: str) -> str:
        return f"task.keys[{self.rounded.index(seed)}]" if seed in self.rounded else "0"

    def _bits(self, kind: str, done: str, n: str = "n", column: str = "column") -> Callable[[str], str]:
        """Return a function from a seed to its random bits: those that were "made", or those of a row, by its name."""

        def bits(seed: str) -> str:
            if kind == "made":
                return f"Made{{bits_{seed or 'weight'}{done}}}"
            return f"of_row(given.columns, {kind} + task.first, {column}{done}, {n}, {self._key(seed)})"

        return bits

    def _span(self, axis: str, own: str, kind: str, seed: str = "", packed: bool = False) -> list[str]:
        """Return the lines that move n elements from `at` on, block by block where the state has some.

        Args:
            axis: whose rule moves them.
            own: where their state begins.
            kind: where random bits come from, as `_bits` takes it.
            seed: by which weights are rounded.
            packed: is it about `count` elements that were packed, `low` and `low_grad`?
        """
        coded = self._coded if axis == "full" else {}
        all_ = "count" if packed else "n"
        done, n = (" + done", "some") if coded else ("", all_)
        bits = self._bits(kind, done, n, OWN_COLUMN if packed else "column")
        state = [structs.slot(name, kept, own + done, bits(name)) for name, kept in self.slots]
        weight, grad = f"Floats{{low{done}}}", f"Floats{{low_grad{done}}}"
        if not packed:
            weight, grad = (
                structs.weight(self._kept, f"at{done}", bits(seed)),
                structs.grad(self.grad, f"at{done}"),
            )
        call = self._call(axis, n, weight, grad, state if axis == "full" else (), tuple(coded))
        if not coded:
            return [call]
        if self.part != "flat":
            return self._span_over_rows(own, all_, call)
        inner = [f"const int some = {all_} - done < BLOCK ? {all_} - done : BLOCK;"]
        inner += [f"const auto codes_{name} = {line}" for name, line in self._begun(own, "some").items()]
        inner += [call, *(f"blocks_{name}.wait();" for name in coded)]
        return [
            *(line for name, kept in coded.items() for line in structs.blocks(name, kept)),
            *(f"for (int done = 0; done < {all_}; done += BLOCK) {{", *(f"    {line}" for line in inner), "}"),
            *(f"blocks_{name}.end();" for name in coded),
        ]

    def _span_over_rows(self, own: str, all_: str, call: str) -> list[str]:
        """Return the lines that move elements of which the last block may go on in the next row.

        Args:
            own: where their state begins.
            all_: how many there are.
            call: of the loop over `some` of them, which lie in one block.
        """
        return [
            f"for (int done = 0, some; done < {all_}; done += some) {{",
            f"    const int begun = (int)(({own} + done) % BLOCK);",
            f"    some = {all_} - done < BLOCK - begun ? {all_} - done : BLOCK - begun;",
            "    if (!begun) {",
            *(f"        {line}" for line in self._begun(own, "BLOCK").values()),
            "    }",
            *(f"    const auto codes_{name} = blocks_{name}.from(begun, some);" for name in self._coded),
            f"    {call}",
            "    if (begun + some == BLOCK) {",
            *(f"        blocks_{name}.wait();" for name in self._coded),
            "    }",
            "}",
        ]

    def _begun(self, own: str, count: str) -> dict[str, str]:
        """Return by slot the line that goes to the block of codes which begins at `own + done`."""
        row = f"({own} + done) / BLOCK + task.first"
        bits = {name: f"of_row(given.columns, {row}, 0, {count}, {self._key(name)})" for name in self._coded}
        return {x: structs.begin(x, kept, f"{own} + done", count, bits[x]) for x, kept in self._coded.items()}

    def _blocks(self) -> parts.Blocks | None:
        """Return the lines around rows that share blocks; None where the state has none."""
        opened = [line for name, kept in self._coded.items() for line in structs.blocks(name, kept)]
        return parts.Blocks(opened, [f"blocks_{name}.close();" for name in self._coded]) if opened else None

    def _call(self, axis: str, n: str, weight: str, grad: str, state: Sequence[str], coded: Sequence[str] = ()) -> str:
        grads = (grad,) if self._rule(axis) else ()
        blocks = [f"blocks_{name}" for name in coded]
        return f"{axis}_loop({', '.join([n, weight, *grads, *state, 'given.numbers', *blocks])});"
