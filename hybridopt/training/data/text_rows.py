"""Rows of plain text: paragraphs between empty lines or, where there are none, lines."""

from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO

from .faults import Faults
from .lines import lines

__all__ = ["rows"]


def rows(file: BinaryIO, path: str, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line that it begins on, {"text": ...}) of every paragraph; of every line if no line between is empty.

    Args:
        file: opened for bytes.
        path: of the file, for errors.
        faults: where lines that cannot be read are noted.
    """
    paragraphs = _paragraphs(lines(file, path, faults))
    first, second = next(paragraphs, None), next(paragraphs, None)
    if first and second:
        for start, text in chain((first, second), paragraphs):
            yield start, {"text": "\n".join(text)}
    elif first:
        start, text = first
        yield from ((start + index, {"text": line}) for index, line in enumerate(text))


def _paragraphs(numbered: Iterator[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    held: list[str] = []
    start = 0
    for number, line in numbered:
        if line.strip():
            start = start if held else number
            held.append(line.rstrip("\r\n"))
        elif held:
            yield start, held
            held = []
    if held:
        yield start, held
