"""The whole text of the C++ kernel of a rule with rounds: its methods, printed for the skeleton's `rounds.h`."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ....core.contracts import Rule
from ..tracing.elements import Elements
from ..tracing.rounds import RoundsOfRule, rounds_of
from . import tensors as cpp_tensors
from .elements import Told, look_lines, update_lines
from .kernel import RATES
from .room import Room, sized
from .rounds_text import CHECKED, FIRST, FIRST_LOOK, HEAD, LOOK, NO_FIRST_LOOK, RULE, SETTLE, SIZES
from .settling import settle_lines
from .structs import LEVELS, ROOTS
from .tensors import FloatPiece

__all__ = ["RoundsLayout"]

PIECE, DIRECT = 512, 2048
Size = tuple[int, int, int]  # vectors by row, vectors by column, single numbers


@dataclass(frozen=True)
class RoundsLayout:
    """What a kernel's text depends on.

    Args:
        rule: with rounds, for all elements.
        axis: "full" or "free": which of the numbers is its rate.
        fixed: rows and columns that it is made for; None: any.
        weight: how weights are kept, as `kernel.KernelLayout` has it.
        grad: dtype of the gradient.
        slots: the names of the state that goes with the elements, and how each is kept.
        settled: the names of the state that `settle` moves, in float32.
        block: elements that share a scale; 0 where none do.
        rounded: names of the seeds in the order of their keys.
    """

    rule: Rule
    axis: str
    fixed: tuple[int | None, int | None]
    weight: str
    grad: str
    slots: tuple[tuple[str, str], ...]
    settled: tuple[str, ...]
    block: int
    rounded: tuple[str, ...]
    part = "flat"

    @cached_property
    def rounds(self) -> RoundsOfRule | None:
        """Return what the rule does; None where it cannot be printed."""
        rule: Any = self.rule
        found = rounds_of(rule, tuple(name for name, _ in self.slots), self.fixed)
        return None if found is None or any(line.sums for line in found.update.lines) else found

    @cached_property
    def looks_first(self) -> bool:
        """Return whether the first look can be made before the rest, and is worth it.

        It reads the gradient alone, and of the whole matrix. Where rows go by themselves, the thread that updates a
        row looks at it, whose gradient is in its cache then: what another look has found would save nothing.
        """
        assert self.rounds is not None
        lines = self.rounds.looks[0].lines
        read = {x for line in lines for x in line.reads} - {line.name for line in lines}
        return read == {"g"} and not self.rounds.by_rows

    @property
    def state(self) -> tuple[str, ...]:
        """Return the names of the raw tensors of the state, in order."""
        raw = tuple(name + x for name, kept in self.slots for x in (("", "_absmax") if kept in LEVELS else ("",)))
        return (*raw, *self.settled, *(("weight.low",) if self.weight == "bfloat16 split" else ()))

    def text(self) -> str:
        """Return the text that the compiler is given."""
        return _Text(self).whole()

    def room(self, rows: int, width: int) -> int:
        """Return how many numbers a kernel keeps for a matrix of this size, its sums included."""
        return _numbers(self._sizes[0], rows, width)

    def looked(self, rows: int, width: int) -> int:
        """Return how many numbers its first look finds in a matrix of this size."""
        return _numbers(self._sizes[1], rows, width)

    @cached_property
    def _sizes(self) -> tuple[Size, Size]:
        text = _Text(self)
        text.whole()
        return text.room.size, text.first


class _Text:
    """The text of a kernel, method by method."""

    def __init__(self, layout: RoundsLayout):
        assert layout.rounds is not None
        self.layout, self.rounds, self.room = layout, layout.rounds, Room()
        self.numbers = {name: i for i, name in enumerate((*RATES, *(f"n_{x}" for x in self.rounds.numbers)))}
        states = {f"s_{name}": f"(float*)task.at[{_tensor(name)}]" for name in layout.settled}
        self.places: dict[str, str] = states
        self.found: list[tuple[str, str]] = []
        self.first = (0, 0, 0)  # of the room, what the first look finds

    def whole(self) -> str:
        layout = self.layout
        tensors = ["PARAM", "GRAD", *(_tensor(name) for name in layout.state if name != "weight.low")]
        tensors += ["LOW"] * (layout.weight == "bfloat16 split") + ["LOOKED", "SEEN"] * layout.looks_first
        title = f"{type(layout.rule).__name__}: weights {layout.weight}, gradients {layout.grad}"
        out = [HEAD.format(title=title, tensors=", ".join(tensors), piece=self._piece)]
        for i in range(len(self.rounds.looks)):
            out += [self._look(i), self._settle(i)]
        out.append(self._update())
        count = range(len(self.rounds.looks))
        named = {kind: ", ".join(f"{kind[:-1]}_{i}" for i in count) for kind in ("looks", "settles")}
        sums, found = (", ".join(some) for some in zip(*self.found, strict=True))
        schedule = "in_rows" if self.rounds.by_rows else "in_rounds"
        places = 1 if self.rounds.by_rows or layout.slots else 2  # one where numbers are read twice, from a cache
        together = f"rows_together({layout.block}, task.width)" if layout.block else "1"
        sizes = {"together": together, "rounds": len(count), "places": places, "room": self.room.text}
        first = FIRST_LOOK if layout.looks_first else NO_FIRST_LOOK
        sizes |= {"sums": sums, "found": found, "first_room": sized(self.first)}
        out.append(RULE.format(schedule=schedule, **sizes, **named, **first))
        if layout.looks_first:
            out.append(FIRST)
        return "\n".join(out)

    @property
    def _piece(self) -> int:
        layout = self.layout
        if layout.block:
            return layout.block * max(1, PIECE // layout.block)
        kinds = {"float32", layout.weight.split()[0], layout.grad, *dict(layout.slots).values()}
        return DIRECT if kinds == {"float32"} else PIECE

    def _look(self, i: int) -> str:
        look, settle = self.rounds.looks[i], self.rounds.settles[i]
        told = Told(self.numbers, dict(self.places), self._pieces())
        rows = {name: self.room.add(f"look {i} row {name}", settle.given[f"l_{name}"]) for name in look.rows}
        self.places |= {f"l_{name}": place for name, place in rows.items()}
        sums = self._sums(i, look)
        if i == 0:
            self.first = self.room.size
        if i == 0 and self.layout.looks_first:
            lines = look_lines(look, told, rows, sums, checked=True)
            return _function(f"template <bool CHECKED>\nstatic u32 looked_0({LOOK})", lines) + CHECKED
        return _function(f"static void look_{i}({LOOK})", look_lines(look, told, rows, sums))

    def _sums(self, i: int, look: Elements) -> dict[str, str]:
        """Find the places of sums, beside each other in the room; return where a `look` adds them up."""
        known = {line.name: line for line in look.lines}
        wide = [name for name, value in look.sums.items() if value in known and known[value].sums == "col"]
        single = [name for name, value in look.sums.items() if value in known and known[value].sums == "one"]
        self.places |= {f"m_{name}": f"={value}" for name, value in look.sums.items() if value not in known}
        at = {name: f"sums + {k} * width" for k, name in enumerate(wide)}
        at |= {name: f"sums + {len(wide)} * width + {k}" for k, name in enumerate(single)}
        begin = f"room + ({self.room.text})"
        for name in wide + single:
            self.places[f"m_{name}"] = self.room.add(f"look {i} sum {name}", "width" if name in wide else "1")
        self.found.append((sized((0, len(wide), len(single))), begin))
        return at

    def _settle(self, i: int) -> str:
        lines = settle_lines(self.rounds.settles[i], self.room, self.places, self.numbers)
        return _function(f"static void settle_{i}({SETTLE})", lines)

    def _update(self) -> str:
        layout, pieces = self.layout, self._pieces()
        result = "max_({x}, 0.f)" if layout.weight == "float32 nonnegative" else "{x}"
        rate = "lr" if layout.axis == "full" else "free_lr"
        moved = [pieces[f"s_{name}"] for name, _ in layout.slots if name in self.rounds.update.state]
        roots = {name for name, kept in layout.slots if kept in ROOTS}
        told = Told(self.numbers, dict(self.places), pieces)
        lines = update_lines(self.rounds.update.rooted(roots), told, rate, result, (pieces["p"], *moved))
        return _function(f"static void update_all({SETTLE})", lines)

    def _pieces(self) -> dict[str, FloatPiece]:
        layout = self.layout
        keys = {name: i for i, name in enumerate(layout.rounded)}
        block = layout.block
        own = {f"s_{x}": cpp_tensors.slot(x, kept, "at", "n", block, keys.get(x, 0)) for x, kept in layout.slots}
        random = cpp_tensors.seeded("at", "n", "width", keys[""]) if layout.weight == "bfloat16 random" else ""
        weight = cpp_tensors.weight(layout.weight.removesuffix(" nonnegative"), "at", "n", random)
        return {"g": cpp_tensors.grad(layout.grad, "at", "n"), "p": weight, **own}


def _numbers(size: Size, rows: int, width: int) -> int:
    by_row, by_column, single = size
    return by_row * rows + by_column * width + single


def _tensor(name: str) -> str:
    return f"STATE_{name.upper()}"


def _function(head: str, lines: list[str]) -> str:
    return f"{head} {{\n{SIZES}" + "".join(f"    {line}\n" for line in lines) + "}\n"
