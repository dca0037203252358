"""The lines of a `settle` in an order in which few loops do them all."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..tracing.settling import Settling, Vector

__all__ = ["LoopGroup", "needed", "scheduled"]


@dataclass(eq=False)
class LoopGroup:
    """Lines that are done together.

    Args:
        length: of the vectors that one loop makes; None for a line by itself.
        lines: in order.
        sums: lines that add up, in the same loop, what it makes.
    """

    length: str | None
    lines: list[Vector]
    sums: list[Vector] = field(default_factory=list)

    def later(self, groups: Sequence["LoopGroup"]) -> set[str]:
        """Return the names of vectors that it makes and a group besides reads."""
        made = {line.name for line in self.lines}
        return {x for one in groups if one is not self for line in one.lines for x in line.reads if x in made}


def scheduled(lines: Sequence[Vector]) -> list[LoopGroup]:
    """Return lines in groups: what is single as soon as it can be, then the longest possible loop.

    lines: in an order in which they can be done.
    """
    waiting, groups, done = list(lines), list[LoopGroup](), set[str]()
    names = {line.name for line in lines}

    def ready(line: Vector, more: set[str]) -> bool:
        return all(x not in names or x in done or x in more for x in line.reads)

    while waiting:
        single = next((x for x in waiting if not _looped(x) and ready(x, set())), None)
        if single is not None:
            groups.append(LoopGroup(None, [single]))
            waiting.remove(single)
            done.add(single.name)
            continue
        size, group = waiting[0].length, LoopGroup(waiting[0].length, [])
        made: set[str] = set()
        for line in waiting:
            if _looped(line) and line.length == size and ready(line, made):
                group.lines.append(line)
                made.add(line.name)
            elif line.how == "sum" and line.reads[0] in made:
                group.sums.append(line)
        groups.append(group)
        done |= made | {line.name for line in group.sums}
        waiting = [line for line in waiting if line.name not in done]
    return groups


def _looped(line: Vector) -> bool:
    return line.how == "each" and line.length != "1"


def needed(settling: Settling, values: Iterable[str]) -> list[Vector]:
    """Return the lines that some values follow from, in order."""
    wanted, lines = set(values), list[Vector]()
    for line in reversed(settling.lines):
        if line.name in wanted:
            wanted |= set(line.reads)
            lines.insert(0, line)
    return lines
