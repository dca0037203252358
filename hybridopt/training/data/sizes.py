"""How much text a row may have: all of it is made into tokens at once, which takes some 100 bytes for each."""

from collections.abc import Mapping
from typing import Any

from .faults import RowError

__all__ = ["MOST", "check_size"]

MOST = 4 * 2**20  # characters; a long novel has 3 million


def check_size(values: Mapping[str, Any]) -> None:
    """Raise RowError for a row with more text than can be made into tokens at once.

    values: by our columns.
    """
    found = _characters(values)
    if found > MOST:
        raise RowError(
            f"has {found:,} characters, and a row may have {MOST:,}, as all of it is made into tokens at once; look "
            "whether line ends are missing, or make several rows of it"
        )


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return sum(map(_characters, inner))
