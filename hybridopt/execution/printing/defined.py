"""From the text of a module to the kernels that it defines."""

import linecache
from functools import lru_cache
from itertools import count
from typing import Any

__all__ = ["defined"]

_numbers = count(1)


@lru_cache(maxsize=256)
def defined(text: str, title: str) -> dict[str, Any]:
    """Run a printed module and return what it defines, by name.

    Triton reads the text again, as tracebacks do, from Python's cache of lines.

    Args:
        text: of the module.
        title: says in a traceback what this is.
    """
    name = f"<hybridopt: {title}, {next(_numbers)}>"
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    module: dict[str, Any] = {"__name__": "hybridopt.execution.printing.printed"}
    exec(compile(text, name, "exec"), module)
    return module
