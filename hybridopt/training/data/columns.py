"""What the columns of a file are: which format they make, and how a row of them becomes an example."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ...core.errors import HybridOptError, check_choice, known, nearest
from ..config.run import AUTO, Data
from .faults import RowError
from .foreign import ALIASES, FOREIGN, Foreign
from .formats import FORMATS, Format

__all__ = ["RowReader", "columns_of"]

OURS = sorted({name for each in FORMATS.values() for name in (*each.needed, *each.optional)})


@dataclass(frozen=True)
class RowReader:
    """How the rows of one file become examples.

    Args:
        format: what they are.
        theirs: by our names, those that the file has for the columns.
        foreign: the format of others that they are in; None: ours.
        more: columns that are kept as they are.
        told: what people should know of them.
    """

    format: Format
    theirs: Mapping[str, str]
    foreign: Foreign | None = None
    more: tuple[str, ...] = ()
    told: tuple[str, ...] = ()

    @cached_property
    def needed(self) -> frozenset[str]:
        """Names of the columns that every row of the file has."""
        return frozenset(self.foreign.needed if self.foreign else (self.theirs[name] for name in self.format.needed))

    def values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return an example: a row's values by our columns; RowError for a column that is needed and not there."""
        if not self.needed <= row.keys():
            missing, has = sorted(self.needed - row.keys()), ", ".join(row) or "none"
            raise RowError(f"has no column {missing[0]!r}, which earlier rows have (its columns: {has})")
        if self.foreign:
            return self.foreign.values(row)
        there = {ours: row.get(name) for ours, name in self.theirs.items()}
        values = {
            ours: value for ours, value in there.items() if value is not None or self.theirs[ours] in self.needed
        }
        return values | {name: row.get(name) for name in self.more}


def columns_of(names: Sequence[str], data: Data, where: str) -> RowReader:
    """Return what the columns of a file make.

    Args:
        names: of its columns.
        data: what the run says: a format, and other names of columns.
        where: the file, for errors.

    Raises:
        HybridOptError: no format has these columns, or several have, with the line that decides.
    """
    renamed = _renamed(names, data.columns, where)
    if data.format != AUTO:
        check_choice("data", "format", data.format, FORMATS)
    wanted = [each for each in FORMATS.values() if data.format in (AUTO, each.name)]
    found = _narrowed([each for each in wanted if set(each.needed) <= renamed.keys()], renamed)
    foreign = next(
        (each for each in FOREIGN if set(each.needed) <= set(names) and FORMATS[each.format] in wanted), None
    )
    if not found and foreign:
        return _of_others(names, foreign)
    if not found:
        raise HybridOptError(_unknown(names, renamed, data, where))
    if len(found) > 1:
        raise HybridOptError(_ambiguous(found, where))
    reader = _ours(names, renamed, found[0])
    return replace(reader, told=(*reader.told, *_unused(names, data.columns)))


def _unused(names: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    """Return lines on names of columns that a file has not, as others of several files may have them."""
    absent = {ours: theirs for ours, theirs in columns.items() if theirs not in names}
    return [f"has no column {theirs}; {ours} is taken as it is" for ours, theirs in absent.items()]


def _renamed(names: Sequence[str], columns: Mapping[str, str], where: str) -> dict[str, str]:
    """Return the file's names by ours (or, of columns we do not know, by themselves)."""
    for ours, theirs in columns.items():
        if ours not in OURS:
            raise HybridOptError(f"data.columns: {ours!r} is no column that a format has; {known(ours, OURS)}")
        if theirs not in names and ours not in names:
            raise HybridOptError(f"data.columns.{ours}={theirs!r}: {where} has no such column; {known(theirs, names)}")
    mapped = {ours: theirs for ours, theirs in columns.items() if theirs in names}
    return {name: name for name in names if name not in mapped.values()} | mapped


def _narrowed(found: list[Format], renamed: Mapping[str, str]) -> list[Format]:
    """Leave out formats that others contain, and those that are no task's where another fits."""
    if {"prompt", "completion", "label"} <= renamed.keys() and len(found) > 1:
        return [FORMATS["prompt_completion"], FORMATS["prompt"]]  # good and bad answers: not to be taken for good ones
    most = [each for each in found if not any(set(each.needed) < set(other.needed) for other in found)]
    with_task = [each for each in most if each.task is not None]
    return with_task or most


def _ours(names: Sequence[str], renamed: Mapping[str, str], kind: Format) -> RowReader:
    theirs = {name: renamed[name] for name in (*kind.needed, *kind.optional) if name in renamed}
    others = [name for name in names if name not in theirs.values()]
    told = [f"columns {', '.join(theirs.values())}: read as {kind.name}"]
    if kind.more:
        if cure := _cure(renamed, FORMATS["prompt_completion"]):
            told.append(f"answers are read with {cure}")
        told += [f"kept for reward functions: {', '.join(others)}"] if others else []
        return RowReader(kind, theirs, more=tuple(others), told=tuple(told))
    told += [f"not used: {', '.join(others)}"] if others else []
    return RowReader(kind, theirs | {name: name for name in kind.optional if name not in theirs}, told=tuple(told))


def _of_others(names: Sequence[str], foreign: Foreign) -> RowReader:
    used = [name for name in (*foreign.needed, *foreign.optional) if name in names]
    told = [f"columns {', '.join(used)} ({foreign.name}): read as {foreign.format}, {foreign.told}"]
    others = [name for name in names if name not in used]
    told += [f"not used: {', '.join(others)}"] if others else []
    return RowReader(FORMATS[foreign.format], {}, foreign, told=tuple(told))


def _ambiguous(found: Sequence[Format], where: str) -> str:
    names = " and ".join(f"{each.name} ({', '.join(each.needed)})" for each in found)
    cures = " or ".join(f"--set data.format={each.name}" for each in found)
    return f"{where}: its columns are those of {names}; say which is meant: {cures}"


def _unknown(names: Sequence[str], renamed: Mapping[str, str], data: Data, where: str) -> str:
    has = f"{where} has the columns {', '.join(names)}"
    formats = [each for each in FORMATS.values() if data.format in (AUTO, each.name)]
    for each in formats:
        if cure := _cure(renamed, each):
            return f"{has}; to read them as {each.name}: {cure}"
    if data.format != AUTO:
        missing = [name for name in formats[0].needed if name not in renamed]
        cures = " ".join(f"--set data.columns.{name}=YOURS" for name in missing)
        return f"{has}, but data.format={data.format} needs {', '.join(missing)}; if another has it: {cures}"
    every = "; ".join(f"{each.name}: {', '.join(each.needed)}" for each in formats)
    return f"{has}, which are no format's ({every}); name yours: --set data.columns.text=YOURS"


def _cure(renamed: Mapping[str, str], kind: Format) -> str | None:
    """Return the settings that map columns of other names to a format, if all can be."""
    found: dict[str, str] = {}
    for ours in (name for name in kind.needed if name not in renamed):
        free = [name for name in renamed if name not in (*found.values(), *kind.needed)]
        near = next((name for name in ALIASES.get(ours, ()) if name in free), None) or nearest(ours, free)
        if near is None:
            return None
        found[ours] = near
    return " ".join(f"--set data.columns.{ours}={theirs}" for ours, theirs in found.items())
