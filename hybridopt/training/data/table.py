"""All rows of a setting, such as data.train: seen once, and checked."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from ...core.errors import HybridOptError
from ..config.run import Data
from . import local
from .columns import RowReader, columns_of
from .examples import DataFile, Origins
from .faults import Faults, RowError
from .places import Place, places
from .survey import Survey

__all__ = ["Table", "table_of"]


@dataclass(frozen=True)
class Table:
    """All rows of a setting.

    Args:
        setting: "data.train" or "data.eval".
        places: where they lie, in order.
        columns: of each place.
        survey: of all rows.
        origins: of all rows.
        files: what is noted of each place.
        told: lines for people.
        held: the rows, where they are few; None: they are read again.
    """

    setting: str
    places: tuple[Place, ...]
    columns: tuple[RowReader, ...]
    survey: Survey
    origins: Origins
    files: tuple[DataFile, ...]
    told: tuple[str, ...]
    held: list[dict[str, Any]] | None

    @property
    def chats(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """One row of every order of roles, with its file and line."""
        return tuple((self.places[place].where(line), row) for (place, line), row in self.survey.shapes.values())

    def rows(self, console: Console | None) -> Iterator[dict[str, Any]]:
        """Yield all rows again, by our columns; HybridOptError where the files have changed meanwhile."""
        if self.held is not None:
            yield from self.held
            return
        again = Survey(self.survey.format)
        for place, columns in zip(self.places, self.columns, strict=True):
            for _, row in place.rows(Faults(), console):
                values = columns.values(row)
                again.add(values)  # which also makes values alike
                yield values
        noted = [(file.sha256, file.revision) for file in self.files]
        now = [place.version() for place in self.places]
        if noted != [(version.get("sha256"), version.get("revision")) for version in now]:
            raise HybridOptError(f"{self.setting}: the files changed while they were read; start again")


def table_of(names: Sequence[str], setting: str, data: Data, console: Console | None) -> Table:
    """Look at all rows of a setting, and hold them where they are few.

    Args:
        names: of files, folders, or data sets of the hub.
        setting: "data.train" or "data.eval".
        data: what the run says about formats and columns.
        console: where progress is shown for large files; None: nowhere.

    Raises:
        HybridOptError: for files that are missing, damaged or of no known format, and for bad rows.
    """
    if not names:
        raise HybridOptError(f"{setting} is empty; give a file, a folder, or an id on the hub (org/name)")
    reader = _Reader(tuple(place for name in names for place in places(name, setting)), data, setting)
    for number in range(len(reader.places)):
        reader.read(number, console)
    return reader.table()


class _Reader:
    """What has been seen of the places of a setting."""

    def __init__(self, every: tuple[Place, ...], data: Data, setting: str):
        self.places, self.data, self.setting = every, data, setting
        self.columns: list[RowReader] = []
        self.held: list[dict[str, Any]] | None = [] if sum(place.size for place in every) < local.LARGE else None
        self.surveys: list[Survey] = []
        self.place, self.line = array("i"), array("q")

    def read(self, number: int, console: Console | None) -> None:
        """Look at all rows of one place."""
        place, faults = self.places[number], Faults()
        for line, row in place.rows(faults, console):
            if len(self.columns) == number:
                self._begin(place, list(row))
            try:
                values = self.columns[number].values(row)
                self.surveys[0].add(values, (number, line))
                if self.held is not None:
                    self.held.append(values)
            except RowError as error:
                faults.add(place.where(line), str(error))
            self.place.append(number)
            self.line.append(line)
        faults.check()
        if len(self.columns) == number:
            raise HybridOptError(f"{self.setting}: {place.name} has no rows")

    def _begin(self, place: Place, names: list[str]) -> None:
        columns = columns_of(names, self.data, place.name)
        first = self.columns[0].format if self.columns else columns.format
        if first is not columns.format:
            kinds = f"{self.places[0].name} is {first.name}, but {place.name} is {columns.format.name}"
            raise HybridOptError(f"{self.setting}: {kinds}; files of one setting are of one format")
        self.columns.append(columns)
        self.surveys = self.surveys or [Survey(first)]

    def _told(self) -> list[str]:
        """Return what people should know of columns, once for all files that it holds for."""
        names: dict[str, list[str]] = {}
        for place, each in zip(self.places, self.columns, strict=True):
            for text in each.told:
                names.setdefault(text, []).append(place.name)
        return [f"{of[0]}{f' and {len(of) - 1} more' if len(of) > 1 else ''}: {text}" for text, of in names.items()]

    def table(self) -> Table:
        """Return all that was seen."""
        place, (survey,) = np.array(self.place, np.int32), self.surveys
        counts = np.bincount(place, minlength=len(self.places)).tolist()
        files = [
            DataFile(each.name, count, **each.version(), eval=self.setting == "data.eval")
            for each, count in zip(self.places, counts, strict=True)
        ]
        told = [*self._told(), *survey.finish(self.setting)]
        origins = Origins(self.places, place, np.array(self.line, np.int64))
        columns = tuple(self.columns)
        return Table(self.setting, self.places, columns, survey, origins, tuple(files), tuple(told), self.held)
