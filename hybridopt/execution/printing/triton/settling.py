"""A `settle` as a Triton kernel: vectors by row and single numbers by one program, vectors by column by many.

Programs that do columns add up again, each for itself, what they need of the rows: a vector of rows is short. Where
that is not possible, as a vector by row needs one by column, one program does everything.
"""

from dataclasses import dataclass

from ..cpp.room import Room
from ..tracing.settling import Settling
from .schedule import needed, scheduled
from .tiles import deeper
from .vectors import ColumnsOfSettle, WholeOfSettle

__all__ = ["SettleText", "settle_text"]

CONSTANTS = "BW: tl.constexpr, BP: tl.constexpr, BS: tl.constexpr"
INNER = """

@triton.jit
def {name}({arguments}, {constants}):
"""


@dataclass(frozen=True)
class SettleText:
    """What programs of a `settle` do.

    Args:
        rows: lines of the first program; none where it has nothing to do.
        columns: lines of those that have some columns each; none where the first does all.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]

    def whole(self, kernel: str, name: str, arguments: str) -> str:
        """Return the text of the kernel.

        Args:
            kernel: its head.
            name: its name.
            arguments: of it.
        """
        parts = {f"{name}_rows": self.rows, f"{name}_columns": self.columns}
        own = {part: lines for part, lines in parts.items() if lines}
        text = ""
        for part, lines in own.items():
            head = INNER.format(name=part, arguments=arguments, constants=CONSTANTS)
            text += head + "".join(f"{x}\n" for x in deeper(lines))
        calls = [f"{part}({arguments}, BW, BP, BS)" for part in own]
        body = (
            calls if len(calls) < 2 else ["if tl.program_id(0) == 0:", f"    {calls[0]}", "else:", f"    {calls[1]}"]
        )
        head = kernel.format(name=name, arguments=arguments, constants=CONSTANTS)
        return text + head + "".join(f"{x}\n" for x in deeper(body))


def settle_text(settling: Settling, room: Room, places: dict[str, str]) -> SettleText:
    """Return what programs do, and put the places of the results into `places`.

    Args:
        settling: what is done.
        room: of the kernels; grows by what has to be kept.
        places: where every vector that is given lies, or "=" and its text; changed.
    """
    wide = _wide(settling)
    by_row = {x for x in (*settling.results.values(), *settling.state.values())} - wide
    before = dict(places)
    if wide and _apart(settling, by_row, wide):
        rows = WholeOfSettle(settling, room, before, places).lines(by_row)
        columns = ColumnsOfSettle(settling, room, before, places, 1 if rows else 0).lines(wide)
        return SettleText(tuple(rows), tuple(columns))
    return SettleText(tuple(WholeOfSettle(settling, room, before, places).lines(by_row | wide)), ())


def _wide(settling: Settling) -> set[str]:
    """Return the values of length "width" that come of it."""
    states = {x for slot, x in settling.state.items() if settling.length(f"s_{slot}") == "width"}
    return {x for x in (*settling.results.values(), *states) if settling.length(x) == "width"}


def _apart(settling: Settling, by_row: set[str], wide: set[str]) -> bool:
    """Return whether columns need no vector of the rows but its sum, and rows nothing of the columns."""
    rows, columns = needed(settling, by_row), needed(settling, wide)
    read = {x for line in rows for x in line.reads} | by_row
    if any(settling.length(x) == "width" for x in read) or any(line.length == "width" for line in rows):
        return False
    others = {x for line in columns for x in line.reads if settling.length(x) != "width"}
    if any(
        f"s_{slot}" in others or settling.length(f"s_{slot}") != settling.length(x)
        for slot, x in settling.state.items()
    ):
        return False
    if any(line.how not in ("each", "sum") for line in columns):
        return False
    if any(line.how == "sum" and settling.length(line.reads[0]) == "width" for line in columns):
        return False
    groups, single = scheduled(columns), {x for x in others if settling.length(x) == "1"}
    return not any(x in others - single for group in groups for x in group.later(groups))
