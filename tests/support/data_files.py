"""Files of examples for tests, and what is said of bad ones."""

import csv
import json
from pathlib import Path

from hybridopt.core.errors import HybridOptError
from hybridopt.training.config.run import Data
from hybridopt.training.data.reading import read


def write_jsonl(path, rows):
    """Write rows as JSON lines (texts as they are), and return the path."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    return _write(path, "".join(f"{line}\n" for line in lines))


def write_list(path, rows):
    """Write rows as one JSON list, and return the path."""
    return _write(path, json.dumps(rows, indent=1))


def write_csv(path, rows, delimiter=","):
    """Write rows as a table with a line of names, and return the path."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return Path(path)


def write_tsv(path, rows):
    """Write rows as a table with tabs, and return the path."""
    return write_csv(path, rows, "\t")


def write_parquet(path, rows):
    """Write rows as parquet, and return the path."""
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return Path(path)


def _write(path, text):
    Path(path).write_bytes(text.encode() if isinstance(text, str) else text)
    return Path(path)


def examples(*paths, **settings):
    """Return the examples of files."""
    seed = settings.pop("seed", 0)
    return read(Data(train=tuple(map(str, paths)), **settings), seed)


def refusal(*paths, **settings):
    """Return what is said of files that are refused."""
    try:
        found = examples(*paths, **settings)
    except HybridOptError as error:
        return str(error)
    raise AssertionError(f"not refused: {found}")


def columns(dataset):
    """Return the columns of a dataset as lists."""
    return {name: list(dataset[name]) for name in dataset.column_names}
