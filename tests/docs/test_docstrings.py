"""Public functions with three or more parameters describe each of them in an `Args:` section.

How a docstring begins is ruff's matter (D401). Methods that a contract declares with the same parameters are described
there, and options of commands in their annotations, which make the help.
"""

import ast
import re

from hybridopt.cli.main import app
from support.paths import ROOT
from support.sources import FILES, tree

MOST = 0  # functions that do not yet: may only fall, to 0
FROM = 3  # parameters
COMMANDS = {(c.callback.__module__.rpartition(".")[2], c.callback.__name__) for c in app.registered_commands}
CONTRACTS = ROOT / "hybridopt" / "core" / "contracts"
ENTRY = re.compile(r"^ {4}\*{0,2}(\w+):", re.MULTILINE)


def functions(body, docstring=None):
    """(function, docstring) of all public functions and methods; of a constructor that of its class."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from functions(node.body, ast.get_docstring(node))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _public(node.name):
            own = ast.get_docstring(node)
            yield node, (docstring or own) if node.name == "__init__" else own


def _public(name):
    return not name.startswith("_") or name in ("__init__", "__call__")


def parameters(node):
    """Names in order, without self and cls, and without those that are positional and unnamed ("_")."""
    a = node.args
    every = [*a.posonlyargs, *a.args, *filter(None, [a.vararg]), *a.kwonlyargs, *filter(None, [a.kwarg])]
    return [p.arg for p in every if p.arg not in ("self", "cls") and not p.arg.startswith("_")]


def described(docstring):
    """Names in the section `Args:`, in order."""
    section = re.search(r"^Args:\n((?: +.*\n?|\n)*)", docstring or "", re.MULTILINE)
    return ENTRY.findall(section[1]) if section else []


def all_functions():
    for file in FILES:
        for node, docstring in functions(tree(file).body):
            if (file.stem, node.name) not in COMMANDS:
                yield f"{file.relative_to(ROOT)}:{node.lineno} {node.name}", node, docstring


def contract():
    """(name, parameters) of what core/contracts declares."""
    trees = (tree(file).body for file in CONTRACTS.glob("*.py"))
    return {(node.name, *parameters(node)) for tree in trees for node, _ in functions(tree)}


def test_functions_of_several_parameters_describe_them():
    known = contract()
    several = [(where, node, doc) for where, node, doc in all_functions() if len(parameters(node)) >= FROM]
    missing = [
        where
        for where, node, doc in several
        if set(parameters(node)) - set(described(doc))
        and ("core/contracts" in where or (node.name, *parameters(node)) not in known)
    ]
    assert len(missing) <= MOST, "\n".join(missing)


def test_what_is_described_is_there_and_described_once():
    for where, node, docstring in all_functions():
        names = described(docstring)
        assert set(names) <= set(parameters(node)) and len(set(names)) == len(names), where
