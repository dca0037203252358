"""JSON of ours, read as if a stranger had written it: plain objects only, nothing doubled, nothing infinite."""

import json
import math
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args

from ..errors import HybridOptError, known, shown
from .paths import path_of

__all__ = ["only", "parse", "read", "take", "write"]

LARGEST = 4 * 2**20  # bytes
DEEPEST = 64  # levels of objects and arrays
_REQUIRED = object()
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[][{}]', re.DOTALL)
_WORDS = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}


def read(path: str | Path, what: str = "the file") -> dict[str, Any]:
    """Read the JSON object in a file; `what` names its purpose in errors.

    Raises HybridOptError for what `parse` refuses and for a path that is no readable regular file.
    """
    where = f"{what} {path}"
    try:
        # A pipe or a device would block or never end.
        if not path_of(path, what, "a file").is_file():
            raise HybridOptError(f"{where} is missing or not a regular file")
        with open(path, "rb") as file:
            return parse(file.read(LARGEST + 1), where)
    except OSError as error:
        raise HybridOptError(f"{where} cannot be read: {error}") from error


def parse(text: str | bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in `text`; `where` names the source in errors.

    Raises HybridOptError for more than 4 MiB or 64 levels, bytes that are no UTF-8, doubled keys, numbers that are
    not finite or beyond 64 bits, lone surrogates, and anything but an object at the top.
    """
    if len(text) > LARGEST:
        raise HybridOptError(f"{where} is larger than {LARGEST} bytes, the most that is read as JSON")
    try:
        text = text.decode() if isinstance(text, bytes) else text
        _check_depth(text, where)
        data = json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, where))
    except HybridOptError:
        raise
    except (ValueError, RecursionError) as error:
        raise HybridOptError(f"{where} is not valid JSON: {error}") from error
    if type(data) is not dict:
        raise HybridOptError(f"{where} must hold an object ({{...}}) at the top, not {_word(data)}")
    _check(data, where)
    return data


def write(path: str | Path, data: dict[str, Any]) -> None:
    """Write an object that `read` gives back equal (tuples come back as lists); the file ends with a newline.

    Raises HybridOptError, before the file is touched, for values that JSON has no word for, naming where they are.
    """
    where = str(path)
    if type(data) is not dict:
        raise HybridOptError(f"{where} must hold an object (a dict) at the top, not {_word(data)}")
    _check(data, where)
    text = json.dumps(data, indent=2, allow_nan=False) + "\n"
    if len(text) > LARGEST:
        raise HybridOptError(f"{where} would be larger than {LARGEST} bytes, the most that is read as JSON")
    try:
        path_of(path, "path", "a file").write_bytes(text.encode())
    except OSError as error:
        raise HybridOptError(f"{where} cannot be written: {error}") from error


def take(data: dict[str, Any], key: str, kind: Any, where: str, default: Any = _REQUIRED) -> Any:
    """Return `data[key]`, checked; a bool is no int, and a whole number is a float where only floats are allowed.

    Args:
        data: a JSON object.
        key: what is asked for.
        kind: a plain type, or a union or tuple of them.
        where: the source, for errors.
        default: what is returned without the key; left out, the key is needed.

    Raises:
        HybridOptError: for a missing key, or a value of another type.
    """
    if key not in data:
        if default is _REQUIRED:
            raise HybridOptError(f"{where}: the key {key!r} is missing")
        return default
    value, kinds = data[key], kind if isinstance(kind, tuple) else get_args(kind) or (kind,)
    if type(value) is int and float in kinds and int not in kinds:
        return float(value)
    if type(value) not in kinds:
        allowed = " or ".join(_WORDS[each] for each in kinds)
        raise HybridOptError(f"{where}: {key!r} must be {allowed}, not {_word(value)} ({shown(value)})")
    return value


def only(data: dict[str, Any], allowed: Collection[str], where: str) -> None:
    """Raise HybridOptError if a JSON object has unknown keys, listing them and the known ones.

    Args:
        data: a JSON object.
        allowed: the known keys.
        where: the source, for errors.
    """
    unknown = sorted(str(key) for key in set(data).difference(allowed))
    if unknown:
        raise HybridOptError(f"{where}: unknown key {shown(', '.join(unknown))}; {known(unknown[0][:100], allowed)}")


def _check_depth(text: str, where: str) -> None:
    # Before json.loads: its own guard is the recursion limit, which the user may have lifted beyond the C stack.
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth > DEEPEST:
            raise HybridOptError(f"{where} is nested deeper than {DEEPEST} levels")


def _object(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise HybridOptError(f"{where} has the key {shown(twice)} twice in one object")
    return data


def _check(value: Any, where: str, depth: int = 1) -> None:
    if isinstance(value, dict | list | tuple) and depth > DEEPEST:
        raise HybridOptError(f"{where[:200]}: nested deeper than {DEEPEST} levels, or holding itself")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_string(key, f"{where}: a key")
            _check(item, f"{where}: {shown(key)}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check(item, f"{where}[{index}]", depth + 1)
    else:
        _check_leaf(value, where)


def _check_leaf(value: Any, where: str) -> None:
    if type(value) is str:
        _check_string(value, where)
    elif type(value) is int and not -(2**63) <= value < 2**64:
        raise HybridOptError(f"{where} is a whole number beyond 64 bits")
    elif type(value) is float and not math.isfinite(value):
        raise HybridOptError(f"{where} is {value}; only finite numbers are allowed")
    elif type(value) not in _WORDS:
        raise HybridOptError(f"{where} is {_word(value)}, which JSON has no word for")


def _check_string(value: Any, where: str) -> None:
    if type(value) is not str:
        raise HybridOptError(f"{where} must be a string, not {_word(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise HybridOptError(f"{where} holds half a surrogate pair: {shown(value)}") from error


def _word(value: Any) -> str:
    return _WORDS.get(type(value), f"a {type(value).__name__}")
