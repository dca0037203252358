"""Sizes of memory, read and written as people do."""

import re
from numbers import Real

from .errors import HybridOptError

__all__ = ["GIB", "gib", "human", "parse_size"]

GIB = 2**30
MOST = 2**60  # bytes
UNITS = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": GIB, "tib": 2**40}
UNITS |= {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def parse_size(text: str, name: str = "size") -> int:
    """Return the bytes of "24GiB" (2**30 each), "80GB" (10**9), "512 MiB" ...; HybridOptError for anything else.

    A bare number is refused: nobody can tell gigabytes from gibibytes or bytes.
    """
    found = TEXT.fullmatch(text) if isinstance(text, str) else None
    if found is None and not isinstance(text, Real):
        raise HybridOptError(f"{name}={text!r} is no size; write a number with a unit, such as '24GiB' or '80GB'")
    if found is None or not found[2]:
        number = str(text).strip()
        raise HybridOptError(f"{name}={text!r} has no unit; write '{number}GiB' (2**30 bytes) or '{number}GB' (10**9)")
    if found[2].lower() not in UNITS:
        raise HybridOptError(f"{name}={text!r}: the unit {found[2]!r} is not known; take GiB, GB, MiB, MB, TiB or TB")
    size = float(found[1]) * UNITS[found[2].lower()]
    if size < 1:
        raise HybridOptError(f"{name}={text!r} is no memory at all; give a size above zero")
    if size > MOST:
        raise HybridOptError(f"{name}={text[:20]!r} is more memory than any device has; give at most {MOST // GIB}GiB")
    return int(size)


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
