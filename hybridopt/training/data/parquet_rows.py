"""Rows of parquet files, with their number from 1 in place of a line."""

from collections.abc import Iterator
from typing import Any, BinaryIO

from ...core.errors import HybridOptError
from .faults import Faults

__all__ = ["plain", "rows"]

ROWS = 1000  # read at a time


def rows(file: BinaryIO, path: str, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number, values by column) of every row.

    Args:
        file: opened for bytes.
        path: of the file, for errors.
        faults: not needed, as rows of parquet are whole or the file is not.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        number = 0
        for batch in parquet.ParquetFile(file).iter_batches(ROWS):
            for row in batch.to_pylist():
                number += 1
                yield number, {name: plain(value) for name, value in row.items()}
    except (pyarrow.ArrowException, OSError) as error:
        why = str(error).splitlines()[0]
        raise HybridOptError(f"{path} is no parquet file, or it is cut off ({why}); copy it again") from error


def plain(value: Any) -> Any:
    """Return a value of a typed table without the keys that its type adds, with nothing in them, to every object."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if each is not None or key in ("content", "value")}
    return [plain(each) for each in value] if isinstance(value, list) else value
