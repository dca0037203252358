"""The whole text of a C++ kernel: a rule's loop, put into the skeleton of `execution/cpp/skeleton`."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...core.contracts import Rule
from . import cpp_tensors
from .cpp_loops import loop
from .cpp_tensors import Piece
from .traced import traced

__all__ = ["Layout"]

HEAD = """\
// Printed from {title}.
#include "chunks.h"
#include "hashes.h"
#include "bf16.h"
#include "int8.h"
#include "columns.h"

enum {{ {tensors} }};
static const int PIECE = {piece};
static const i64 CHUNK = {chunk};

"""
FLAT = """\
extern "C" void hybridopt_run(const Given* given) {
    in_chunks(*given, [](const Task& task) { return task.rows * task.width; }, [](const Task&) { return CHUNK; },
              [&](const Task& task, i64 first, i64 last) {
                  for (i64 at = first; at < last; at += PIECE)
                      piece(task, *given, at, (int)(last - at < PIECE ? last - at : PIECE));
              });
}
"""
BY_ROWS = """\
extern "C" void hybridopt_run(const Given* given) {
    in_chunks(*given, [](const Task& task) { return task.rows; },
              [](const Task& task) { return task.width < CHUNK ? CHUNK / task.width : (i64)1; },
              [&](const Task& task, i64 first, i64 last) {
                  for (i64 row = first; row < last; ++row) of_row(task, *given, row);
              });
}
"""
OF_COLUMNS = """\
static void of_row(const Task& task, const Given& given, i64 row) {
    const u16* mask = (const u16*)task.at[CHOSEN];
    i64 own = row * task.count;
    for (i64 column = 0; column < task.width; column += PIECE) {
        const int n = (int)(task.width - column < PIECE ? task.width - column : PIECE);
        own += piece(task, given, row * task.width + column, n, own, mask + column / 16);
    }
}
"""
OF_ROWS = """\
static void of_row(const Task& task, const Given& given, i64 row) {
    const i64 place = ((const i64*)task.at[CHOSEN])[row];  // among the chosen rows; -1 for the others
    for (i64 column = 0; column < task.width; column += PIECE) {
        const int n = (int)(task.width - column < PIECE ? task.width - column : PIECE);
        if (place < 0)
            other(task, given, row * task.width + column, n);
        else
            piece(task, given, row * task.width + column, n, place * task.width + column);
    }
}
"""
PIECE, WIDE, DIRECT = 512, 1024, 2048  # elements at a time: what is decoded stays in the first cache
CHUNK = 1 << 15  # elements that a thread takes at a time
RATES = ("lr", "free_lr", "decay")


@dataclass(frozen=True)
class Layout:
    """What a kernel's text depends on.

    Args:
        part: "flat": one rule for every element; "columns" or "rows": `full` for those chosen, `free` for the others.
        full: the state-full rule; None where there is none.
        free: the state-free rule; of one that is idle weights only decay; None where there is none.
        weight: how weights are kept: "float32", "float32 nonnegative", "bfloat16", "bfloat16 random" (rounded at
            random) or "bfloat16 split".
        grad: dtype of the gradient, "float32" or "bfloat16".
        slots: the names of the state, and how each is kept: "float32", "bfloat16", "int8" or "uint8".
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

    @property
    def state(self) -> tuple[str, ...]:
        """Return the names of the raw tensors of the state, in order."""
        beside = {"int8": ("", "_absmax"), "uint8": ("", "_absmax")}
        raw = tuple(name + suffix for name, kept in self.slots for suffix in beside.get(kept, ("",)))
        return (*raw, "weight.low") if self.weight == "bfloat16 split" else raw

    @property
    def title(self) -> str:
        """Return what the kernel is, in words."""
        rules = [type(rule).__name__ for rule in (self.full, self.free) if rule is not None]
        return f"{' and '.join(rules)}: {self.part}, weights {self.weight}, gradients {self.grad}"

    def text(self) -> str:
        """Return the text that the compiler is given."""
        tensors = ["PARAM", "GRAD", *(f"STATE_{name.upper()}" for name in self.state if name != "weight.low")]
        tensors += ["LOW"] * (self.weight == "bfloat16 split") + ["CHOSEN"] * (self.part != "flat")
        head = HEAD.format(title=self.title, tensors=", ".join(tensors), piece=self._piece, chunk=self._chunk)
        return "\n".join([head, *self._loops(), getattr(self, f"_{self.part}")()])

    @property
    def _piece(self) -> int:
        if self.block:
            return self.block * max(1, PIECE // self.block)
        direct = {"float32", self.weight.split()[0], self.grad, *dict(self.slots).values()} == {"float32"}
        if self.part == "columns":  # mostly whole rows: loops end in single elements
            return DIRECT if direct else WIDE
        return DIRECT if direct else PIECE

    @property
    def _chunk(self) -> int:
        return self._piece * max(1, CHUNK // self._piece)

    def _rule(self, axis: str) -> Rule | None:
        """Return the rule of an axis; None where there is none, or weights only decay."""
        rule: Rule | None = getattr(self, axis)
        return None if rule is None or rule.idle else rule

    def _loops(self) -> list[str]:
        """Return the loops of both rules; numbers of the state-free one come after those of the other."""
        result = "max_({x}, 0.f)" if self.weight == "float32 nonnegative" else "{x}"
        roots = [name for name, kept in self.slots if kept == "uint8"]
        skipped: tuple[str, ...] = ()
        out = []
        for axis, rate in (("full", "lr"), ("free", "free_lr")):
            here = self._rule(axis)
            rule = None if here is None else traced(here)
            own = () if rule is None else tuple(f"n_{name}" for name in rule.numbers)
            if getattr(self, axis) is not None:
                out.append(loop(f"{axis}_loop", rule, rate, [*RATES, *skipped, *own], result, roots))
            skipped = ("",) * len(own)
        return out

    # ---- one rule for all

    def _flat(self) -> str:
        axis = "full" if self.full is not None else "free"
        return (
            self._function("static void piece(const Task& task, const Given& given, i64 at, int n)", axis, "at", "")
            + FLAT
        )

    # ---- chosen rows

    def _rows(self) -> str:
        head = "static void {}(const Task& task, const Given& given, i64 at, int n{})"
        chosen = self._function(head.format("piece", ", i64 own"), "full", "own", "low")
        return chosen + self._function(head.format("other", ""), "free", "at", "") + OF_ROWS + BY_ROWS

    # ---- chosen columns

    def _columns(self) -> str:
        weight, grad = self._weight("at", "n", "bits"), cpp_tensors.grad(self.grad, "at", "n")
        state = self._slots("own", "count", "task.count")
        lines = [*weight.before, *grad.before, "const int count = chosen(mask, n);"]
        lines.append("alignas(64) float low[PIECE + SLACK], low_grad[PIECE + SLACK];")
        lines += ["compress(low, weight, mask, n);", "compress(low_grad, grad, mask, n);"]
        lines += [line for one in state for line in one.before]
        lines.append(self._call("full", "count", "low", "low_grad", state))
        lines.append(self._call("free", "n", "weight", "grad", ()))
        lines.append("expand(weight, low, mask, n);")
        if self._random:  # each by the bits of its own part
            lines.append("alignas(64) u32 bits[PIECE + SLACK], low_bits[PIECE + SLACK];")
            lines.append(f"random_bits(bits, {self._seeded('', 'at', 'n', 'task.width')});")
            lines.append(f"random_bits(low_bits, {self._seeded('low', 'own', 'count', 'task.count')});")
            lines.append("expand((float*)bits, (const float*)low_bits, mask, n);")
        lines += [*weight.after, *(line for one in state for line in one.after), "return count;"]
        head = "static int piece(const Task& task, const Given& given, i64 at, int n, i64 own, const u16* mask)"
        return _function(head, lines) + OF_COLUMNS + BY_ROWS

    # ---- lines

    @property
    def _random(self) -> bool:
        return self.weight == "bfloat16 random"

    def _weight(self, at: str, n: str, random: str) -> Piece:
        return cpp_tensors.weight(self.weight.removesuffix(" nonnegative"), at, n, random)

    def _slots(self, at: str, n: str, width: str) -> list[Piece]:
        wide = str(self.block) if self.block else width
        keys = {name: self.rounded.index(name) if name in self.rounded else 0 for name, _ in self.slots}
        return [cpp_tensors.slot(name, kept, at, n, wide, keys[name]) for name, kept in self.slots]

    def _seeded(self, seed: str, at: str, n: str, width: str) -> str:
        return cpp_tensors.seeded(at, n, width, self.rounded.index(seed))

    def _function(self, head: str, axis: str, own: str, seed: str) -> str:
        """Return the function of a piece in which every element goes by one rule."""
        random = self._seeded(seed, own, "n", "task.width") if self._random else ""
        weight, grad = self._weight("at", "n", random), cpp_tensors.grad(self.grad, "at", "n")
        state = self._slots(own, "n", "task.width") if axis == "full" else []
        reads = grad.before if self._rule(axis) else ()
        lines = [*weight.before, *reads, *(line for one in state for line in one.before)]
        lines.append(self._call(axis, "n", "weight", "grad", state))
        return _function(head, [*lines, *weight.after, *(line for one in state for line in one.after)])

    def _call(self, axis: str, n: str, weight: str, grad: str, state: Sequence[Piece]) -> str:
        grads = (grad,) if self._rule(axis) else ()
        return f"{axis}_loop({', '.join([n, weight, *grads, *(one.name for one in state), 'given.numbers'])});"


def _function(head: str, lines: list[str]) -> str:
    return f"{head} {{\n" + "".join(f"    {line}\n" for line in lines) + "}\n\n"
