"""The project's own Python files, read once."""

import ast
from functools import cache

from support.paths import ROOT

__all__ = ["FILES", "found_in", "path", "tree"]

FILES = sorted(f for folder in ("hybridopt", "integrations") for f in (ROOT / folder).rglob("*.py"))


@cache
def tree(file):
    """The syntax of a file."""
    return ast.parse(file.read_text())


def path(file):
    """Where a file lies, for messages."""
    return file.relative_to(ROOT).as_posix()


def found_in(files, look):
    """Yield (file, what is found) of everything that `look` finds in each file."""
    for file in files:
        yield from ((file, found) for found in look(file))
