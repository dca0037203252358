"""Rows of tables as text: columns separated by commas, semicolons or tabs, with a line of names at the top."""

import csv
from collections.abc import Iterator
from typing import Any, BinaryIO

from ...core.errors import HybridOptError
from .faults import Faults
from .lines import lines

__all__ = ["rows"]

LONGEST = 2**31 - 1  # characters of a cell; without, csv refuses more than 131,072
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def rows(file: BinaryIO, path: str, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line that it begins on, cells by column) of every row; all cells are text.

    The separator is that of the line of names. Empty lines are passed over; line ends within quotes belong to a cell.

    Args:
        file: opened for bytes.
        path: of the file, for errors.
        faults: where rows that cannot be read are noted.
    """
    every = _Counted(lines(file, path, faults))
    first = next(every, None)
    while first is not None and not first.strip():
        first = next(every, None)
    if first is None:
        return
    csv.field_size_limit(LONGEST)
    try:
        separator = _separator(first)
        names = _names(first, separator, path)
    except csv.Error as error:
        return faults.add(f"{path}:{every.number}", _broken(error))
    reader = csv.reader(every, delimiter=separator, strict=True)
    while True:
        start = every.number + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            return faults.add(f"{path}:{start}", _broken(error))
        if cells is None:
            return
        if cells and len(cells) != len(names):
            cure = f"put a cell with {SEPARATORS[separator]} or line ends in it into double quotes"
            faults.add(f"{path}:{start}", f"has {len(cells)} cells, but there are {len(names)} columns; {cure}")
        elif cells:
            yield start, dict(zip(names, cells, strict=True))


class _Counted:
    """Lines, and the number of the last one that was taken."""

    def __init__(self, numbered: Iterator[tuple[int, str]]):
        self.numbered, self.number = numbered, 0

    def __iter__(self) -> "_Counted":
        return self

    def __next__(self) -> str:
        self.number, line = next(self.numbered)
        return line


def _separator(first: str) -> str:
    """Return what separates most names; a comma where nothing does."""
    return max(SEPARATORS, key=lambda each: len(_cells(first, each)))


def _cells(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator), [])


def _names(first: str, separator: str, path: str) -> list[str]:
    names = [name.strip() for name in _cells(first, separator)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise HybridOptError(f"{path}: the column {twice[0]!r} is there twice; rename or delete one")
    return names


def _broken(error: csv.Error) -> str:
    if str(error) == "unexpected end of data":
        return 'a double quote (") is opened here and never closed; a quote within a cell is written twice ("")'
    if str(error).startswith("new-line character"):
        return "a carriage return (CR) stands within a cell that has no double quotes around it; put them there"
    return f"is no row of a table: {error}"
