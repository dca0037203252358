"""Sizes of memory, read and written as people do."""

import re

from .errors import HybridOptError, shown

__all__ = ["GIB", "bytes_of", "gib", "human", "parse_size"]

GIB = 2**30
MOST = 2**60  # bytes
UNITS = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": GIB, "tib": 2**40}
UNITS |= {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def bytes_of(memory: str | int, name: str) -> int:
    """Return the bytes of a whole number of them, or of a size with a unit; HybridOptError for anything else.

    name: of the option.
    """
    if isinstance(memory, bool) or not isinstance(memory, int):
        return parse_size(memory, name)  # it refuses what is no text
    if memory < 1:
        raise HybridOptError(f"{name}={shown(memory)} is not allowed; give a number of bytes above zero, or '24GiB'")
    if memory > MOST:
        raise _too_large(name, memory)
    return memory


def parse_size(text: object, name: str = "size") -> int:
    """Return the bytes of "24GiB" (2**30 each), "80GB" (10**9), "512 MiB" ...; HybridOptError for anything else.

    A bare number is refused: nobody can tell gigabytes from gibibytes or bytes.
    """
    found = TEXT.fullmatch(text if isinstance(text, str) else shown(text)) if not isinstance(text, bool) else None
    if found is None:
        raise HybridOptError(f"{name}={shown(text)} is no size; write a number with a unit, such as '24GiB' or '80GB'")
    unit = found[2].lower()
    if unit and unit not in UNITS:
        raise HybridOptError(f"{name}={text!r}: the unit {found[2]!r} is not known; take GiB, GB, MiB, MB, TiB or TB")
    size = float(found[1]) * UNITS[unit or "b"]
    if size == 0 or (unit and size < 1):
        raise HybridOptError(f"{name}={shown(text)} is nothing at all; give a size above zero, such as '24GiB'")
    if size > MOST:
        raise _too_large(name, text)
    if not unit:
        raise HybridOptError(f"{name}={text!r} has no unit; write {_with_unit(found[1])}")
    return int(size)


def _too_large(name: str, given: object) -> HybridOptError:
    return HybridOptError(
        f"{name}={shown(given)[:20]} is more memory than any device has; give at most {MOST // GIB}GiB"
    )


def _with_unit(number: str) -> str:
    """Return what is meant by a number without unit: gigabytes, or bytes where these would be too many."""
    if float(number) * GIB <= MOST:
        return f"'{number}GiB' (2**30 bytes) or '{number}GB' (10**9)"
    return f"'{number}B' if that many bytes are meant"


def gib(size: float) -> str:
    """Write bytes as GiB with two decimals, for sentences; small sizes in the unit that shows them."""
    unit = next((name for name in ("GiB", "MiB", "KiB") if size >= UNITS[name.lower()] / 10), "B")
    return f"{size / UNITS[unit.lower()]:.2f} {unit}"


NAMES = ("B", "KiB", "MiB", "GiB", "TiB")


def human(size: int) -> str:
    """Write bytes in the largest unit that they fill, for tables."""
    value, unit = float(size), 0
    while value >= 1024 and unit < len(NAMES) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.2f} {NAMES[unit]}"
