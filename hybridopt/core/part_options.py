"""The options that parts have, read from their files without importing any of them."""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from .part_files import PACKAGE, modules

__all__ = ["options"]


def options(kind: str, name: str) -> tuple[str, ...] | None:
    """Return the names of a part's options: what its class and those that it is made of annotate.

    Args:
        kind: of the part, such as "policies".
        name: that of its file.

    Returns:
        None where they are not to be read there, such as of a class that is assembled while it is imported.
    """
    path = _path(modules(kind)[name])
    tree = None if path is None else _tree(path)
    if path is None or tree is None:
        return None
    offered = next((n.value for n in tree.body if isinstance(n, ast.Assign) and _target(n) == "__all__"), None)
    if not isinstance(offered, ast.List) or not offered.elts:
        return None
    return tuple(dict.fromkeys(_annotated(path, str(ast.literal_eval(offered.elts[0])))))


def _annotated(path: Path, name: str) -> list[str]:
    """Return what a class annotates, and what the classes of this folder do that it inherits from."""
    tree = _tree(path)
    body = () if tree is None else tree.body
    found = next((n for n in body if isinstance(n, ast.ClassDef) and n.name == name), None)
    if found is None:
        return [o for other in _imports(body, name) for o in _annotated(path.with_name(f"{other}.py"), name)]
    own = [n.target.id for n in found.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    bases = [b.id for b in found.bases if isinstance(b, ast.Name)]
    return own + [option for base in bases for option in _annotated(path, base)]


def _imports(body: object, name: str) -> list[str]:
    """Return the modules beside this one from which a name is imported."""
    lines = [n for n in body if isinstance(n, ast.ImportFrom)]  # type: ignore[attr-defined]  # a list of statements
    return [n.module for n in lines if n.level == 1 and n.module and any(a.name == name for a in n.names)]


def _target(line: ast.Assign) -> str | None:
    return line.targets[0].id if isinstance(line.targets[0], ast.Name) else None


@cache
def _tree(path: Path) -> ast.Module | None:
    return ast.parse(path.read_text()) if path.is_file() else None


def _path(module: str) -> Path | None:
    """Return the file of a module of this package, none of whose parents is imported for it."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
