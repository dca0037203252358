"""Read docstrings and pieces of source from the standard library's files."""

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
    """One text and where it comes from.

    Args:
        package: the label.
        module: path below the standard library's folder; whole modules are held out.
        kind: "docstring" or "source".
        text: with labels masked.
    """

    package: str
    module: str
    kind: str
    text: str


def module_paths(package: Path) -> list[Path]:
    """List the modules in a package folder in a fixed order, without its test folders (some Pythons ship them)."""
    files = package.rglob("*.py")
    return sorted(f for f in files if not {"test", "tests"} & set(f.relative_to(package).parts[:-1]))


def module_snippets(root: Path, path: Path, labels: tuple[str, ...]) -> list[Snippet]:
    """Read all docstrings and functions of a module that are long enough, with the labels masked.

    Args:
        root: the standard library's folder; the package is the first folder below it.
        path: of the module; a file that this Python cannot decode or parse gives no snippets.
        labels: names of all packages.
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
    """Remove import lines from a text, and replace each label, with the dotted names after it, by "pkg".

    All labels are masked in all texts, in any case and inside longer words: neither the answer nor its absence shows.
    """
    names = re.compile(rf"(?:{'|'.join(map(re.escape, labels))})(?:\.\w+)*", re.IGNORECASE)
    lines = (" ".join(line.split()) for line in text.splitlines() if not IMPORT.match(line))
    return names.sub(MASK, "\n".join(line for line in lines if line))


def _docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield ("docstring", text) of the module, its classes and its functions."""
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
            yield "docstring", text[:LONGEST_DOCSTRING]


def _functions(tree: ast.Module, lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield ("source", text) of functions of three lines or more, the first twelve lines of each."""
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            kept = [lines[number - 1] for number in _code_lines(node)]
            if len(kept) >= FEWEST_LINES:
                yield "source", "\n".join(kept[:MOST_LINES])


def _code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[int]:
    """Return the line numbers of a function without its docstring, so that no text is both a docstring and source."""
    doc = _lines(node.body[0]) if ast.get_docstring(node) is not None else ()
    return [number for number in _lines(node) if number not in doc]


def _lines(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)
