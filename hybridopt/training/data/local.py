"""Files of examples on this machine: what kinds there are, and how their rows are read."""

import gzip
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from ...core.errors import HybridOptError
from . import csv_rows, json_rows, parquet_rows, text_rows
from .faults import Faults

__all__ = ["KINDS", "LARGE", "LocalFile", "kind_of"]

Rows = Callable[[BinaryIO, str, Faults], Iterator[tuple[int, dict[str, Any]]]]
KINDS: dict[str, Rows] = {
    ".jsonl": json_rows.rows,
    ".ndjson": json_rows.rows,
    ".json": json_rows.rows,
    ".csv": csv_rows.rows,
    ".tsv": csv_rows.rows,
    ".parquet": parquet_rows.rows,
    ".txt": text_rows.rows,
}
LARGE = 16 * 2**20  # bytes from which progress is shown, and rows are held on disk


def kind_of(path: Path) -> str | None:
    """Return the suffix that says what a file is, without that of gzip; None for files of no known kind."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    return suffix if suffix in KINDS and (suffix, name.endswith(".gz")) != (".parquet", True) else None


@dataclass(frozen=True)
class LocalFile:
    """A file of examples.

    Args:
        path: of the file.
        name: as people know it.
    """

    path: Path
    name: str

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size

    def rows(self, faults: Faults, console: Console | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (line that it begins on, values by column) of every row.

        Args:
            faults: where rows that cannot be read are noted.
            console: where progress is shown for large files, if it is a terminal; None: nowhere.
        """
        kind = kind_of(self.path)
        with self._opened(console) as file:
            yield from KINDS[cast(str, kind)](file, self.name, faults)

    def where(self, line: int) -> str:
        """Return where a row stands, for people."""
        return f"{self.name}, row {line}" if kind_of(self.path) == ".parquet" else f"{self.name}:{line}"

    def version(self) -> dict[str, str]:
        """Return the SHA-256 of what the file holds."""
        with open(self.path, "rb") as file:
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    @contextmanager
    def _opened(self, console: Console | None) -> Iterator[BinaryIO]:
        try:
            file = open(self.path, "rb")
        except OSError as error:
            raise HybridOptError(f"{self.name} cannot be read: {error.strerror}") from error
        with file, _progress(file, self, console) as shown:
            packed = self.path.name.lower().endswith(".gz")
            yield cast(BinaryIO, gzip.GzipFile(fileobj=shown)) if packed else shown


@contextmanager
def _progress(file: BinaryIO, local: LocalFile, console: Console | None) -> Iterator[BinaryIO]:
    """Give the file as it is, or one whose reading is shown."""
    if console is None or not console.is_terminal or local.size < LARGE:
        yield file
        return
    text = TextColumn("reading {task.description}", markup=False)
    columns = (text, BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield progress.wrap_file(file, total=local.size, description=local.name)
