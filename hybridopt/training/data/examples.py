"""Examples, read and checked."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .formats import Format
from .places import Place

__all__ = ["DataFile", "Examples", "Origins"]


@dataclass(frozen=True)
class DataFile:
    """A file that examples came from, or a data set of the hub.

    Args:
        path: of the file, or its id.
        rows: how many it has.
        sha256: of what the file holds, in hexadecimal; None: it is no file.
        revision: of what was loaded from elsewhere: a commit, or a fingerprint; None: it is a file.
        eval: whether it is for evaluation alone.
    """

    path: str
    rows: int
    sha256: str | None = None
    revision: str | None = None
    eval: bool = False


@dataclass(frozen=True)
class Origins:
    """Where rows stand: for each the number of its place, and its line there.

    Args:
        places: files and the like.
        place: for each row, which of them.
        line: for each row, the line that it begins on.
    """

    places: tuple[Place, ...]
    place: np.ndarray
    line: np.ndarray

    def where(self, index: int) -> str:
        """Return file and line of a row, for people."""
        return self.places[self.place[index]].where(int(self.line[index]))

    def of(self, rows: list[int]) -> "Origins":
        """Return those of some rows."""
        return Origins(self.places, self.place[rows], self.line[rows])


@dataclass(frozen=True)
class Examples:
    """Examples of one format, read and checked.

    Args:
        format: what they are.
        train: a `datasets.Dataset` of the format's columns, by the names that trainers know.
        eval: rows to evaluate with; None: nothing is held out.
        labels: names of the classes by number; none for other formats.
        told: lines for people.
        files: where the rows came from.
        conversational: whether rows are messages, which a template writes as text.
        origins: where the rows of `train` stand.
        chats: one row of every order of roles, with its file and line; none where rows are text.
        eval_origins: where those of `eval` stand.
    """

    format: Format
    train: Any
    eval: Any
    labels: tuple[str, ...]
    told: tuple[str, ...]
    files: tuple[DataFile, ...]
    conversational: bool
    origins: Origins
    chats: tuple[tuple[str, dict[str, Any]], ...] = ()
    eval_origins: Origins | None = None

    def origin(self, index: int) -> str:
        """Return where a row of `train` stands, such as "data.jsonl:17"."""
        return self.origins.where(index)
