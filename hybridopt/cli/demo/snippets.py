"""Docstrings and pieces of source, read from the standard library's files."""

import ast
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Snippet", "masked", "module_paths", "module_snippets"]

SHORTEST_DOCSTRING = 60  # characters
LONGEST_DOCSTRING = 500
FEWEST_LINES = 3
MOST_LINES = 12
MASK = "pkg"

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)
IMPORT = re.compile(r"^\s*(>>>\s*|\.\.\.\s*)?(from\s+[\w.]+\s+import\b|import\s+[\w.]+)")


@dataclass(frozen=True)
class Snippet:
    """A text with the package (the label) and the module (the unit that is held out) it comes from."""

    package: str
    module: str
    kind: str
    text: str


def module_paths(package: Path) -> list[Path]:
    """The modules of a package folder in a fixed order, without its test folders (some Pythons ship them)."""
    files = package.rglob("*.py")
    return sorted(f for f in files if not {"test", "tests"} & set(f.relative_to(package).parts[:-1]))


def module_snippets(root: Path, path: Path, labels: tuple[str, ...]) -> list[Snippet]:
    """Every docstring and function that is long enough of one module below `root`, with all `labels` masked.

    The package is the first folder below `root`. A file that this Python cannot decode or parse gives no snippets.
    """
    try:
        with tokenize.open(path) as file:
            source = file.read()
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    found = [*_docstrings(tree), *_functions(tree, source.splitlines())]
    texts = ((kind, masked(text, labels)) for kind, text in found)
    module = path.relative_to(root)
    return [
        Snippet(module.parts[0], module.as_posix(), kind, text)
        for kind, text in texts
        if len(text) >= SHORTEST_DOCSTRING
    ]


def masked(text: str, labels: tuple[str, ...]) -> str:
    """The text without import lines, each label (with what dots hang on it) replaced by one neutral word.

    All labels are masked in all texts, in any case and inside longer words: neither the answer nor its absence shows.
    """
    names = re.compile(rf"(?:{'|'.join(map(re.escape, labels))})(?:\.\w+)*", re.IGNORECASE)
    lines = (" ".join(line.split()) for line in text.splitlines() if not IMPORT.match(line))
    return names.sub(MASK, "\n".join(line for line in lines if line))


def _docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
            yield "docstring", text[:LONGEST_DOCSTRING]


def _functions(tree: ast.Module, lines: list[str]) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            kept = [lines[number - 1] for number in _code_lines(node)]
            if len(kept) >= FEWEST_LINES:
                yield "source", "\n".join(kept[:MOST_LINES])


def _code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[int]:
    """Line numbers of a function without its docstring, so that no text is both a docstring and source."""
    first = node.body[0]
    doc = range(first.lineno, first.end_lineno + 1) if ast.get_docstring(node) is not None else ()
    return [number for number in range(node.lineno, node.end_lineno + 1) if number not in doc]
