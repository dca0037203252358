"""A `look` as passes over rows: what is added up in each, and what can be worked out of it before the next one."""

from collections.abc import Sequence
from dataclasses import dataclass

from .elements import ElementLine, Elements

__all__ = ["RowPass", "row_passes"]

Lines = tuple[ElementLine, ...]


@dataclass(frozen=True)
class RowPass:
    """One pass over all elements of some rows.

    Args:
        summed: lines that are added up.
        inner: what those need of every element, in order.
        after: lines about a whole row that can be worked out then.
    """

    summed: Lines
    inner: Lines
    after: Lines


def row_passes(look: Elements) -> tuple[Lines, list[RowPass]]:
    """Return the lines about whole rows that need no pass, and the passes in order."""
    depth = _depths(look.lines)
    found = []
    for level in range(max(depth.values(), default=0) + 1):
        summed = tuple(line for line in look.lines if line.sums and _source(line, depth) == level)
        if summed:
            found.append(RowPass(summed, _inner(look.lines, summed), _scalars(look.lines, depth, level + 1)))
    return _scalars(look.lines, depth, 0), found


def _source(line: ElementLine, depth: dict[str, int]) -> int:
    return max((depth.get(x, 0) for x in line.reads), default=0)


def _depths(lines: Sequence[ElementLine]) -> dict[str, int]:
    """Return how many passes over its row come before a line can be worked out."""
    depth: dict[str, int] = {}
    for line in lines:
        depth[line.name] = _source(line, depth) + (line.sums == "row")
    return depth


def _scalars(lines: Sequence[ElementLine], depth: dict[str, int], level: int) -> Lines:
    """Return the lines about a whole row that can be worked out after so many passes."""
    return tuple(x for x in lines if x.kind in ("row", "one") and not x.sums and depth[x.name] == level)


def _inner(lines: Sequence[ElementLine], summed: Lines) -> Lines:
    wanted, inner = {x for line in summed for x in line.reads}, list[ElementLine]()
    for line in reversed(lines):
        if line.name in wanted and line.kind in ("matrix", "col") and not line.sums:
            inner.insert(0, line)
            wanted |= set(line.reads)
    return tuple(inner)
