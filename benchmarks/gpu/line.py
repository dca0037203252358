"""A table with what was aimed at, made of the rows of the parts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .machine import Machine
from .needs import GIB

__all__ = ["Line", "Rows", "View", "broken", "gib", "off"]

TOLD = 160  # characters of a reason: as many as name a library that is missing, and how to get it
Rows = dict[str, list[dict[str, Any]]]  # of every part, by its name


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Args:
        cells: first what it is about.
        aim: what was aimed at.
        reached: was it? None where nothing was, or where nobody can tell.
    """

    cells: tuple[str, ...]
    aim: str = ""
    reached: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"line": " | ".join(self.cells), "aim": self.aim, "reached": self.reached}


@dataclass(frozen=True)
class View:
    """How a part's table is made.

    Args:
        columns: of its header.
        lines: makes the table of the rows of all parts.
    """

    columns: tuple[str, ...]
    lines: Callable[[Rows, Machine], list[Line]]


def broken(name: str, why: str) -> Line:
    """Return the line of something that did not run, with the beginning of why: what was wrong, and the cure."""
    return Line((name, why[:TOLD]), "runs", False)


def gib(size: float | None) -> str:
    """Return bytes in GiB; of tiny models with more digits."""
    return "-" if size is None else f"{size / GIB:.2f}" if size > GIB / 10 else f"{size / GIB:.5f}"


def off(peak: int, plan: int | None) -> str:
    """Return by what share the plan differs."""
    return "-" if plan is None else f"{plan / peak - 1:+.1%}"
