"""Paths that were given by others: whether a file system can have them at all."""

import os
from pathlib import Path

from ..errors import HybridOptError, shown

__all__ = ["path_of"]

LONGEST_NAME, LONGEST = 255, 4095  # bytes: of a name, and of a path, wherever hybridopt runs


def path_of(value: object, name: str, what: str = "a folder") -> Path:
    """Return a path that was given; HybridOptError for what no file system can hold.

    Args:
        value: what was given.
        name: of the argument, or what the file is for.
        what: the thing whose path it should be.
    """
    if not isinstance(value, str | os.PathLike) or not (text := os.fspath(value)) or not isinstance(text, str):
        raise HybridOptError(f"{name}={shown(value)} is not allowed; give the path of {what}")
    if "\0" in text:
        raise HybridOptError(f"{name}: the path {shown(text)} has a NUL character in it, which no file can have")
    try:
        size = len(os.fsencode(text))
    except UnicodeEncodeError as error:
        raise HybridOptError(f"{name}: the path {shown(text)} cannot be written: {error.reason}") from error
    longest = max((part for part in Path(text).parts), key=len, default="")
    if size > LONGEST or len(os.fsencode(longest)) > LONGEST_NAME:
        text = text if size <= LONGEST else shown(text)
        limits = f"{LONGEST_NAME} bytes are allowed, and {LONGEST} for the whole path"
        raise HybridOptError(f"{name}: the path {text} has a name too long: {limits}; shorten it")
    return Path(text)
