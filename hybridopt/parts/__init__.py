"""Every rule, split, source, schedule, codec and store by its class name: `from hybridopt.parts import Block, Linear`.

A file is imported when its class is first asked for.
"""

import sys
from functools import cache
from typing import Any

from ..core.errors import known
from ..core.registry import PARTS, find, names


@cache
def _places() -> dict[str, tuple[str, str]]:
    """Class name to (kind, file name), of every part."""
    return {find(kind, name).__name__: (kind, name) for kind in PARTS for name in names(kind)}


def __getattr__(name: str) -> Any:
    """Return the class of a part; an AttributeError, or ImportError, names the near ones."""
    if name == "__all__":
        return __dir__()
    if name.startswith("_") or name in PARTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _places():
        text = f"module {__name__!r} has no part {name!r}; {known(name, _places())}"
        raise ImportError(text, name=__name__) if _importing() else AttributeError(text)
    return find(*_places()[name])


def _importing() -> bool:
    """Return whether a name is asked for by `from hybridopt.parts import ...`, which hides an AttributeError's text.

    For names from a package Python asks in a function of its own, two frames above this one.
    """
    return sys._getframe(2).f_code.co_name == "_handle_fromlist"


def __dir__() -> list[str]:
    """List the class names."""
    return sorted(_places())
