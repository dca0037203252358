"""The end of a round in the kernel that comes next: every program of it adds up again what it needs.

So there is one launch less. That is possible where nothing but single numbers comes of a vector by row, and where what
comes by column is worked out column by column: all programs read the same vectors, and none waits for another.
"""

from dataclasses import dataclass

from ..cpp.room import Room
from ..tracing.settling import Settling, Vector
from .schedule import needed, scheduled
from .vectors import WholeOfSettle

__all__ = ["FoldedSettle", "folded_settle"]


@dataclass(frozen=True)
class FoldedSettle:
    """What programs of the next kernel do besides.

    Args:
        lines: of every program, before its elements.
        columns: of every tile, about its columns.
        reads: what `columns` read of what was settled by column before.
        numbers: single results, which `lines` name.
    """

    lines: tuple[str, ...]
    columns: tuple[str, ...]
    reads: frozenset[str]
    numbers: frozenset[str]


def folded_settle(settling: Settling, room: Room, places: dict[str, str], last: bool) -> FoldedSettle | None:
    """Return what the next kernel does in place of a `settle`; None where that is not possible.

    Args:
        settling: what is done.
        room: of the kernels; grows by single numbers.
        places: where every vector that is given lies, or "=" and its text; single results are added.
        last: is the next kernel the update, after which nobody reads results, and which leaves no sums of its own?
    """
    if settling.state or "row" in settling.kinds.values() or not (last or {*settling.kinds.values()} == {"one"}):
        return None
    numbers = {x for x in settling.results.values() if settling.length(x) == "1"}
    wide = [line for line in needed(settling, {*settling.results.values()} - numbers) if line.length == "width"]
    made = {line.name for line in wide}
    given = {x for line in wide for x in line.reads if x not in made and settling.length(x) == "width"}
    wanted = numbers | {x for line in wide for x in line.reads if settling.length(x) == "1" and x[:2] != "n_"}
    wanted -= {"rows_", "width_"}
    if not _possible(settling, wide, needed(settling, wanted), given, last):
        return None
    lines = WholeOfSettle(settling, room, dict(places), places).lines(wanted)
    lines += [f"{settling.kinds[name][0]}_{name} = {x}" for name, x in settling.results.items() if x in numbers]
    columns = [f"{line.name} = {line.text}" for line in wide]
    columns += [f"c_{name} = {x}" for name, x in settling.results.items() if x not in numbers]
    known = {f"{settling.kinds[name][0]}_{name}" for name, x in settling.results.items() if x in numbers}
    return FoldedSettle(tuple(lines), tuple(columns), frozenset(given), frozenset(known))


def _possible(settling: Settling, wide: list[Vector], lines: list[Vector], given: set[str], last: bool) -> bool:
    """Return whether programs add up rows alone, keep no vector, and read no sums that another program overwrites."""
    read = {x for line in (*wide, *lines) for x in line.reads} | {*settling.results.values()}
    sums = {x for x in read if x.startswith("m_")}
    if any(settling.length(x) != "1" for x in sums) or (sums and not last):
        return False
    if any(line.how != "each" for line in wide) or any(x[:2] != "c_" for x in given):
        return False
    if any(line.how not in ("each", "sum") or line.length == "width" for line in lines):
        return False
    if any(settling.length(x) == "width" for line in lines for x in line.reads):
        return False
    groups = scheduled(lines)
    return not any(group.later(groups) for group in groups if group.length is not None)
