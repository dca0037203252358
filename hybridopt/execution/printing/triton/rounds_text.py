"""The text of the Triton kernels of a rule with rounds: one a look, one a `settle`, one to update.

A program of a look has some rows, adds up along them in registers, and leaves what it has added down its columns in a
line of its own, so that no two programs meet and every sum has one order. A `settle` adds up those lines. Passes go
over the matrix forwards and backwards in turns, and begin with what is still in the cache. A `settle` of few rows that
only adds up is done by every program of the next kernel. Where every row goes by itself, one kernel makes all rounds.
"""

from collections.abc import Iterable

from ..cpp.room import Room
from ..tracing.elements import ElementLine
from ..tracing.passes import RowPass, row_passes
from ..tracing.rounds import RoundsOfRule
from .folded import FoldedSettle, folded_settle
from .launch import Launch
from .settling import SettleText, settle_text
from .tiles import Tiles, deeper

__all__ = ["RoundsText"]

HEAD = '''"""Printed from {title}."""

import triton
import triton.language as tl

from hybridopt.execution.printing.triton.prelude import *
'''
KERNEL = """

@triton.jit
def {name}({arguments}, {constants}):
    if tl.load(ok) == 0:
        return
"""
ROWS = (
    "row = tile * BR + tl.arange(0, BR)",
    "some = row[:, None] < rows",
    "base = row[:, None].to(tl.int64) * width",
)
TILE = (
    "col = start + tl.arange(0, BC)",
    "inside = col[None, :] < width",
    "mask = some & inside",
    "own = base + col[None, :]",
)
NOTHING = FoldedSettle((), (), frozenset(), frozenset())
ORDER = "tl.program_id(0)", "tl.num_programs(0) - 1 - tl.program_id(0)"  # of passes, in turns


class RoundsText:
    """The text of all kernels of a rule.

    Args:
        tiles: how state and weights are kept.
        title: of the module.
        settled: the names of the state that `settle` moves.
        rounds: what the rule does.
        short: are there so few rows that every program may add up vectors by row?
    """

    def __init__(self, tiles: Tiles, title: str, settled: tuple[str, ...], rounds: RoundsOfRule, short: bool):
        self._short, self._lead = short, NOTHING
        self._settled_slots, self._rounds, self._tiles, self.room = settled, rounds, tiles, Room()
        self.places: dict[str, str] = {f"s_{name}": f"state_{name}" for name in settled}
        self.parted: list[tuple[int, int]] = []  # lines by column and single numbers that a look leaves
        made = self._in_one_kernel() if rounds.by_rows else self._in_rounds()
        self.launches = tuple(launch for *_, launch in made)
        state = (*tiles.state, *settled)
        numbers = (*(f"n_{x}" for x in rounds.numbers), "rows_", "width_", "rows", "width", "parts")
        arguments = ", ".join(
            (
                "param",
                "grad",
                *(f"state_{x}" for x in state),
                "room",
                "parted",
                "keys",
                "ok",
                "rate",
                "decay",
                *numbers,
            )
        )
        self.text = HEAD.format(title=title)
        for name, lines, launch in made:
            if isinstance(lines, SettleText):
                self.text += lines.whole(KERNEL, name, arguments)
            else:
                constants = "BR: tl.constexpr, BC: tl.constexpr" + ", BS: tl.constexpr" * launch.folded
                head = KERNEL.format(name=name, arguments=arguments, constants=constants)
                self.text += head + "".join(f"{x}\n" for x in deeper(lines))

    def _in_rounds(self) -> list[tuple[str, list[str] | SettleText, Launch]]:
        made: list[tuple[str, list[str] | SettleText, Launch]] = []
        for i, settling in enumerate(self._rounds.settles):
            made.append((f"look_{i}", self._look(i), Launch(f"look_{i}", "look", folded=self._folded)))
            last = i == len(self._rounds.settles) - 1
            wide = last and bool(self._rounds.update.state)  # with it a large tile would fill all registers
            lead = folded_settle(settling, self.room, self.places, last) if self._short and not wide else None
            self._lead = lead or NOTHING
            if lead is not None:
                continue
            settle = settle_text(settling, self.room, self.places)
            launch = Launch(f"settle_{i}", "settle", bool(settle.rows), bool(settle.columns))
            made += [(f"settle_{i}", settle, launch)] if settle.rows or settle.columns else []
        launch = Launch("update", "look" if self._folded else "tiles", folded=self._folded)
        return [*made, ("update", self._update(), launch)]

    @property
    def _folded(self) -> bool:
        """Return whether the kernel that comes next does what a `settle` would do."""
        return self._lead is not NOTHING

    # ---- looks

    def _look(self, i: int) -> list[str]:
        look = self._rounds.looks[i]
        out = [f"tile = {ORDER[i % 2]}", *ROWS, *self._lead.lines]
        out += self._settled({x for line in look.lines for x in line.reads})
        out += self._passes(i)
        for name, value in look.rows.items():
            self.places[f"l_{name}"] = place = self.room.add(f"look {i} row {name}", "rows")
            out.append(f"tl.store({place} + row[:, None], {value}, mask=some)")
        return out

    def _passes(self, i: int) -> list[str]:
        look = self._rounds.looks[i]
        made = {line.name: line for line in look.lines}
        wide = [name for name, value in look.sums.items() if value in made and made[value].sums == "col"]
        single = [name for name, value in look.sums.items() if value in made and made[value].sums == "one"]
        self.parted.append((len(wide), len(single)))
        to = {look.sums[name]: f"parted + {k} * parts * width" for k, name in enumerate(wide)}
        to |= {look.sums[name]: f"parted + {len(wide)} * parts * width + {k} * parts" for k, name in enumerate(single)}
        self.places |= {f"m_{name}": to.get(value, f"={value}") for name, value in look.sums.items()}
        before, passes = row_passes(look)
        out = _assigned(before)
        for one in passes:
            out += self._pass(one, to)
        return out

    def _pass(self, one: RowPass, to: dict[str, str]) -> list[str]:
        along = [line for line in one.summed if line.sums != "col"]
        read = {x for line in (*one.summed, *one.inner) for x in line.reads}
        body = [*TILE, *self._elements(read), *_assigned(one.inner)]
        body += [f"{line.name}_of += tl.where(mask, {line.text}, 0.0)" for line in along]
        for line in one.summed:
            if line.sums == "col" and line.name in to:
                added = f"tl.sum(tl.where(mask, {line.text}, 0.0), 0, keep_dims=True)"
                body.append(f"tl.store({to[line.name]} + tile * width + col[None, :], {added}, mask=inside)")
        out = [f"{line.name}_of = tl.zeros([BR, BC], tl.float32)" for line in along]
        out += ["for start in range(0, width, BC):", *deeper(body)]
        for line in along:
            if line.sums == "row":
                out.append(f"{line.name} = tl.sum({line.name}_of, 1, keep_dims=True)")
            elif line.name in to:
                out.append(f"tl.store({to[line.name]} + tile, tl.sum(tl.sum({line.name}_of, 1), 0))")
        return out + _assigned(one.after)

    def _settled(self, read: set[str]) -> list[str]:
        """Return the lines that read what was settled by row, and for all."""
        known = {x: place for x, place in self.places.items() if x in read - self._lead.numbers}
        by_row = [
            f"{x} = tl.load({at} + row[:, None], mask=some, other=0.0)" for x, at in known.items() if x[0] == "r"
        ]
        return by_row + [f"{x} = tl.load({at})" for x, at in known.items() if x[0] == "o"]

    def _elements(self, read: set[str]) -> list[str]:
        """Return the lines that read elements, and what was settled by column."""
        out = []
        if "p" in read:
            out += ["before = tl.load(param + own, mask=mask, other=0.0)", "p = before.to(tl.float32)"]
        if "g" in read:
            out.append("g = tl.load(grad + own, mask=mask, other=0.0).to(tl.float32)")
        out += self._tiles.loaded(name for name in dict(self._tiles.slots) if f"s_{name}" in read)
        columns = {x: at for x, at in self.places.items() if x in read | self._lead.reads and x[0] == "c"}
        out += [f"{x} = tl.load({at} + col[None, :], mask=inside, other=0.0)" for x, at in columns.items()]
        return [*out, *self._lead.columns]

    # ---- the update

    def _update(self) -> list[str]:
        order, across = ORDER[len(self._rounds.looks) % 2], "tl.cdiv(width, BC)"
        begin = [*self._lead.lines, *self._settled(self._read), *self._tiles.key(""), *self._row_lines]
        tile = [*TILE, *self._written()]
        if self._folded:  # fewer programs, as each of them adds up
            return [f"tile = {order}", *ROWS, *begin, "for start in range(0, width, BC):", *deeper(tile)]
        return [f"at = {order}", f"tile = at // {across}", f"start = at % {across} * BC", *ROWS, *begin, *tile]

    @property
    def _read(self) -> set[str]:
        update = self._rounds.update
        read = {x for line in update.lines for x in line.reads} | {"p", update.direction, *update.state.values()}
        return read | {f"s_{name}" for name in update.state}

    @property
    def _row_lines(self) -> list[str]:
        return _assigned(line for line in self._rounds.update.lines if line.kind in ("row", "one"))

    def _written(self) -> list[str]:
        """Return the lines that update a tile."""
        update = self._rounds.update
        return [
            *self._elements(self._read),
            *_assigned(line for line in update.lines if line.kind in ("matrix", "col")),
            f"x = p * decay - {update.direction} * rate",
            self._tiles.rounding("x", "col"),
            "tl.store(param + own, weight.to(before.dtype), mask=mask)",
            *self._tiles.stored(update.state),
        ]

    # ---- rows by themselves

    def _in_one_kernel(self) -> list[tuple[str, list[str] | SettleText, Launch]]:
        return [("kernel", self._in_one(), Launch("kernel", "all"))]

    def _in_one(self) -> list[str]:
        """Return the lines of one kernel that makes all rounds of its rows."""
        rounds = self._rounds = self._rounds.renamed()
        out = [f"tile = {ORDER[0]}", *ROWS]
        out += [f"s_{x} = tl.load(state_{x} + row[:, None], mask=some, other=0.0)" for x in self._settled_slots]
        for i, (look, settle) in enumerate(zip(rounds.looks, rounds.settles, strict=True)):
            out += self._passes(i)
            out += [f"l_{name} = {value}" for name, value in look.rows.items()]
            out += [f"{x} = {at[1:]}" for x, at in self.places.items() if x[0] == "m" and x in settle.read]
            out += [f"{line.name} = {line.text}" for line in settle.lines]
            out += [f"{settle.kinds[name][0]}_{name} = {value}" for name, value in settle.results.items()]
            out += [
                f"tl.store(state_{name} + row[:, None], {value}, mask=some)" for name, value in settle.state.items()
            ]
            out += [f"s_{name} = {value}" for name, value in settle.state.items()]
        update = [*TILE, *self._written()]
        return [*out, *self._tiles.key(""), *self._row_lines, "for start in range(0, width, BC):", *deeper(update)]


def _assigned(lines: Iterable[ElementLine]) -> list[str]:
    return [f"{line.name} = {line.text}" for line in lines]
