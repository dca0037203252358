"""Rows of JSON: an object a line, or one list of objects."""

import json
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from ...core.errors import shown
from .faults import Faults
from .lines import lines

__all__ = ["rows"]

WORDS = {str: "text", list: "a list", bool: "true or false", type(None): "null"}
NEAR = 20  # characters shown before and after what is wrong
CUT = "ends in the middle of a row, so the file is incomplete; copy it again, or delete this line"


class _Doubled(ValueError):
    """A key that an object has twice."""


def rows(file: BinaryIO, path: str, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, object) of every row; lines that are empty are passed over.

    Args:
        file: opened for bytes.
        path: of the file, for errors.
        faults: where rows that cannot be read are noted.
    """
    every = lines(file, path, faults)
    for number, line in every:
        if not line.strip():
            continue
        if line.lstrip().startswith("[") and not _is_list(line):
            text = "\n" * (number - 1) + line + "".join(rest for _, rest in every)
            yield from _listed(text, path, faults)
        elif (row := _row(line, f"{path}:{number}", faults)) is not None:
            yield number, row


def _is_list(line: str) -> bool:
    """Return whether a whole list of plain values stands on one line, as some mistake for rows."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return not (isinstance(data, list) and (not data or isinstance(data[0], dict)))


def _row(line: str, where: str, faults: Faults) -> dict[str, Any] | None:
    try:
        row = DECODER.decode(line)
    except json.JSONDecodeError as error:
        faults.add(where, _broken(line, error))
        return None
    except (ValueError, RecursionError) as error:
        faults.add(where, _unreadable(error))
        return None
    return _object(row, where, faults, "\\u" in line)


def _object(row: object, where: str, faults: Faults, escaped: bool) -> dict[str, Any] | None:
    """Return a row; note what is none. escaped: characters may be written as numbers, half ones among them."""
    if not isinstance(row, dict):
        cure = 'a row is an object, such as {"text": "..."}'
        faults.add(where, f"is {WORDS.get(type(row), 'a number')} ({shown(row)}), not a JSON object; {cure}")
        return None
    try:
        if escaped:
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        bad = error.object[error.start : error.end]
        faults.add(
            where, f"has half a character ({ascii(bad)}), a surrogate without the other, which no text can have"
        )
        return None
    return row


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Doubled(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return row


def _broken(line: str, error: json.JSONDecodeError) -> str:
    at_end = error.pos >= len(line.rstrip()) or error.msg.startswith("Unterminated string")
    if at_end and not line.endswith("\n"):
        return CUT
    if line.strip() in ("{", "}", "},", "]"):
        return "is no whole JSON object: a row is on one line, or the file is one list, [{...}, {...}]"
    near = line[max(0, error.pos - NEAR) : error.pos + NEAR].strip()
    return f"is no JSON object: {_wrong(error)} in column {error.colno}, near {near!r}"


def _wrong(error: json.JSONDecodeError) -> str:
    """Return what is wrong, in words that go on with a column."""
    if error.msg.startswith("Invalid control character"):  # json's words end in "at"
        return "a text goes over a line end, or has a tab or the like in it, which are written \\n and \\t,"
    return error.msg


def _unreadable(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "has lists or objects within each other, deeper than can be read"
    if isinstance(error, _Doubled):
        return f"is no JSON object: {error}"
    return f"has a whole number of more than {sys.get_int_max_str_digits():,} digits; write it as text, in quotes"


def _listed(text: str, path: str, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of one JSON list, each with the line that it begins on."""
    at, line, counted = _skip(text, text.index("[") + 1), 1, 0
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        where = f"{path}:{line}"
        try:
            row, end = DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            return faults.add(f"{path}:{error.lineno}", _broken_list(text, error))
        except (ValueError, RecursionError) as error:
            return faults.add(where, _unreadable(error))
        if (good := _object(row, where, faults, "\\u" in text)) is not None:
            yield line, good
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            line += text.count("\n", counted, at)
            cut = (
                "the list has no end (']')"
                if at >= len(text)
                else f"a comma is missing before {text[at : at + NEAR]!r}"
            )
            return faults.add(f"{path}:{line}", f"{cut}; the file is incomplete or damaged")
    if (rest := _skip(text, at + 1)) < len(text):
        line = 1 + text.count("\n", 0, rest)
        faults.add(f"{path}:{line}", f"something follows the list: {text[rest : rest + NEAR]!r}")


def _broken_list(text: str, error: json.JSONDecodeError) -> str:
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        return "the list ends in the middle of a row, so the file is incomplete; copy it again"
    near = text[max(0, error.pos - NEAR) : error.pos + NEAR].strip()
    return f"is no JSON: {_wrong(error)} in column {error.colno}, near {near!r}"


def _skip(text: str, at: int) -> int:
    """Return where the next character stands that is no space."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at


DECODER = json.JSONDecoder(object_pairs_hook=_pairs)
