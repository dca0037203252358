"""Every rule, split, source, schedule, codec and store by its class name: `from hybridopt.parts import Block, Linear`.

A file is imported when its class is first asked for.
"""

from functools import cache
from typing import Any

from ..core.registry import PARTS, find, names


@cache
def _places() -> dict[str, tuple[str, str]]:
    """Class name to (kind, file name), of every part."""
    return {find(kind, name).__name__: (kind, name) for kind in PARTS for name in names(kind)}


def __getattr__(name: str) -> Any:
    """Return the class of a part; AttributeError lists the known ones."""
    if name == "__all__":
        return __dir__()
    if name.startswith("_") or name not in _places():
        raise AttributeError(f"module {__name__!r} has no part {name!r}; known: {', '.join(sorted(_places()))}")
    return find(*_places()[name])


def __dir__() -> list[str]:
    """List the class names."""
    return sorted(_places())
