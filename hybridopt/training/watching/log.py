"""log.jsonl: one JSON object a line, whole or not at all, whenever the run may be ended."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from ...core.errors import HybridOptError, shown
from ...core.files import plain_json

__all__ = ["NONFINITE", "LogFile", "read_log"]

NONFINITE = "nonfinite"  # key of the names of numbers that are infinite or none, which JSON has no word for


class LogFile:
    """A file of records, which only grows; what a run that was killed has left of a last line is cut off.

    Every record is written at once, as one line. A number that is infinite or none is written as null, and its name is
    listed under "nonfinite".

    Args:
        path: of the file; it and its folder are made if they are not there.

    Raises:
        HybridOptError: the file cannot be opened.
    """

    def __init__(self, path: Path):
        self.path = path
        with _disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._opened()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record: texts, numbers, true, false or None by name.

        Raises:
            HybridOptError: a value is something else, or the disk is full; the file is then as it was.
        """
        line = memoryview(_line(record, self.path))
        with _disk(self.path):
            before = os.fstat(self._file).st_size
            try:
                while line:
                    line = line[os.write(self._file, line) :]
            except OSError:
                os.ftruncate(self._file, before)
                raise

    def truncate_after(self, step: int) -> dict[str, Any]:
        """Leave out all records of later steps, as a run that goes on from a checkpoint makes them once more.

        The file is replaced by its shorter self as a whole. Returns the last record that stays; {} without any.
        """
        every = read_log(self.path)
        kept = [r for r in every if not isinstance(r.get("step"), int) or r["step"] <= step]
        if len(kept) < len(every):
            self._replace(b"".join(_line(record, self.path) for record in kept))
        return kept[-1] if kept else {}

    def close(self) -> None:
        """Close the file; a record after that is an error."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _opened(self) -> int:
        with _disk(self.path):
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            os.ftruncate(file, self.path.read_bytes().rfind(b"\n") + 1)
        return file

    def _replace(self, text: bytes) -> None:
        beside = self.path.with_name(f".{self.path.name}.new")
        with _disk(self.path):
            beside.write_bytes(text)
            os.replace(beside, self.path)
        self.close()
        self._file = self._opened()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return all records of a file, without a last line that is not finished.

    Raises:
        HybridOptError: the file cannot be read, or a line is no JSON object, by its number.
    """
    with _disk(path):
        lines = path.read_bytes().split(b"\n")[:-1]
    return [plain_json.parse(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def _line(record: Mapping[str, Any], path: Path) -> bytes:
    plain = {name: _plain(name, value, path) for name, value in record.items()}
    broken = [name for name, value in plain.items() if isinstance(value, float) and not math.isfinite(value)]
    plain |= dict.fromkeys(broken) | ({NONFINITE: broken} if broken else {})
    return json.dumps(plain, allow_nan=False).encode() + b"\n"


def _plain(name: str, value: Any, path: Path) -> Any:
    if value is None or isinstance(value, str | bool) or (name == NONFINITE and isinstance(value, list)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise HybridOptError(f"{path}: {name}={shown(value)} is neither a text nor a number, as records hold them")


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HybridOptError(f"{path} cannot be read or written: {error.strerror or error}") from error
