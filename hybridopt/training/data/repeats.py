"""Rows that are there more than once: they weigh more in training, and say nothing in an evaluation."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .examples import DataFile, Examples

__all__ = ["repeats_told"]

LOOKED_AT = 100_000  # rows; among more, looking takes longer than it is worth


def repeats_told(examples: Examples) -> tuple[str, ...]:
    """Return lines for people: files that are there twice, however they are named, and rows that are.

    Rows are compared up to LOOKED_AT of them, files always.
    """
    trained, held = ([file for file in examples.files if file.eval is which] for which in (False, True))
    twice = [*_twice("data.train", trained), *_twice("data.eval", held)]
    train, evaluated = examples.train, () if examples.eval is None else examples.eval
    if len(train) + len(evaluated) > LOOKED_AT:
        return (*twice, *_in_both(trained, held))
    seen: set[int] = set()
    again = _again(train, seen)
    if again and not twice:
        twice.append(f"data.train: {again} of {len(train)} rows repeat earlier ones, and count as often")
    leaked = sum(_mark(row) in seen for row in evaluated)
    said = f"data.eval: {leaked} of {len(evaluated)} rows are also in data.train; their loss says little"
    return (*twice, *([said] if leaked else []))


def _twice(setting: str, files: Sequence[DataFile]) -> Iterator[str]:
    """Yield a line for every file of a setting that holds what an earlier one does."""
    first: dict[tuple[str | None, ...], str] = {}
    for file in files:
        content = _content(file)
        if content not in first:
            first[content] = file.path
            continue
        what = "is named twice" if first[content] == file.path else f"holds the same as {first[content]}"
        yield f"{setting}: {file.path} {what}: its {file.rows} rows count once more; leave it out if that is not meant"


def _in_both(trained: Iterable[DataFile], held: Iterable[DataFile]) -> Iterator[str]:
    """Yield a line for every file to evaluate with that is trained on."""
    names = {_content(file): file.path for file in trained}
    for file in held:
        if (same := names.get(_content(file))) is not None:
            yield f"data.eval: {file.path} holds the same as {same} of data.train; its loss says little"


def _content(file: DataFile) -> tuple[str | None, ...]:
    """Return what tells the content of a file; parts of a data set have one revision, so the name counts, too."""
    return (file.sha256,) if file.sha256 is not None else (file.revision, file.path)


def _again(rows: Iterable[dict[str, Any]], seen: set[int]) -> int:
    """Add rows to those that were seen; return how many of them were."""
    count = 0
    for row in rows:
        mark = _mark(row)
        count += mark in seen
        seen.add(mark)
    return count


def _mark(row: dict[str, Any]) -> int:
    """Return a number that is the same for equal rows; missing values make no difference."""
    told = {name: value for name, value in row.items() if value is not None}
    return hash(json.dumps(told, sort_keys=True, default=str))
