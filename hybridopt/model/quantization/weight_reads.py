"""Where the code of a class reads the weights of other modules, told from its source."""

import ast
import inspect
import operator
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from torch import nn

__all__ = ["Read", "reads"]

HARMLESS = ("device", "grad", "is_cuda", "is_meta", "requires_grad")  # of a weight, however it is kept
ASKING = ("isinstance", "hasattr", "getattr", "type", "id")  # calls that do not compute with a weight
COMPARED: dict[type, Callable[[float, float], bool]] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
}
COMPARED |= {ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Is: operator.is_, ast.IsNot: operator.is_not}


@dataclass(frozen=True)
class Read:
    """A place in the code of a class where a weight is read.

    Args:
        path: members that lead from the module to the owner of the weight; None where the code does not say it.
        others: what the function names, where it does not say the path.
        expected: the names of dtypes that the code of the function is prepared to find.
        tests: conditions on the way to it, each with the outcome that leads there.
    """

    path: tuple[str, ...] | None
    others: frozenset[str] = frozenset()
    expected: frozenset[str] = frozenset()
    tests: tuple[tuple[ast.expr, bool], ...] = ()

    def reached(self, module: nn.Module) -> bool:
        """Return whether a module may come there; its plain attributes settle what they can."""
        return not any(_outcome(test, module) is (not wanted) for test, wanted in self.tests)


@cache
def reads(kind: type) -> tuple[Read, ...]:
    """Return all places where the forward method of a class, or what it calls in the same file, reads a weight."""
    found: list[Read] = []
    for function in _reached(kind):
        names = frozenset(_names(function.__code__))
        if "weight" not in names:
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, TypeError, SyntaxError):  # there is no source
            found.append(Read(None, names))
            continue
        found += _Visitor(names).found(tree)
    return tuple(found)


def _reached(kind: type) -> Iterator[FunctionType]:
    functions: list[Any] = [inspect.getattr_static(kind, "forward", None)]
    seen = set()
    while functions:
        function = functions.pop()
        function = inspect.unwrap(function) if callable(function) else function
        if not isinstance(function, FunctionType) or function in seen or function.__module__ == nn.Module.__module__:
            continue
        seen.add(function)
        yield function
        for name in _names(function.__code__):
            functions.append(inspect.getattr_static(kind, name, None))
            beside = function.__globals__.get(name)
            if isinstance(beside, FunctionType) and beside.__module__ == function.__module__:
                functions.append(beside)


def _names(code: CodeType) -> set[str]:
    """Return the names of all attributes and globals in a function and in those within it."""
    return set(code.co_names).union(*(_names(x) for x in code.co_consts if isinstance(x, CodeType)))


class _Visitor(ast.NodeVisitor):
    """Collects the reads of one function."""

    def __init__(self, names: frozenset[str]):
        self._expected = frozenset({"uint8", "int8"} & names)
        self._places: list[tuple[tuple[str, ...] | None, tuple[tuple[ast.expr, bool], ...]]] = []
        self._tests: tuple[tuple[ast.expr, bool], ...] = ()
        self._in_hand: set[str] = set()

    def found(self, tree: ast.AST) -> list[Read]:
        """Return the reads of a function."""
        self.visit(tree)
        hand = frozenset(self._in_hand)
        return [Read(path, hand if path is None else frozenset(), self._expected, t) for path, t in self._places]

    def visit_If(self, node: ast.If | ast.IfExp) -> None:
        """Note the condition for both branches."""
        self.visit(node.test)
        for branch, outcome in ((node.body, True), (node.orelse, False)):
            before, self._tests = self._tests, (*self._tests, (node.test, outcome))
            for each in branch if isinstance(branch, list) else [branch]:
                self.visit(each)
            self._tests = before

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """Do as with any other condition."""
        self.visit_If(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Leave out a module that is called, which is not in hand, and a weight that is only asked for its type."""
        asks = isinstance(node.func, ast.Name) and node.func.id in ASKING
        if isinstance(node.func, ast.Attribute):
            self.visit(node.func.value)
        given = (*node.args, *(k.value for k in node.keywords))
        for each in given:
            if not (asks and isinstance(each, ast.Attribute) and each.attr == "weight"):
                self.visit(each)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Note what is read, and which members of the module are in hand."""
        value = node.value
        if node.attr in HARMLESS and isinstance(value, ast.Attribute) and value.attr == "weight":
            return
        if node.attr == "weight" and isinstance(node.ctx, ast.Load):
            self._places.append((_path(value), self._tests))
            return
        if isinstance(value, ast.Name):
            self._in_hand.add(node.attr)
        self.generic_visit(node)


def _path(node: ast.expr) -> tuple[str, ...] | None:
    """Return the members in `self.a.b`; None for what is no such chain, or a variable alone."""
    path: list[str] = []
    while isinstance(node, ast.Attribute):
        path.insert(0, node.attr)
        node = node.value
    return tuple(path) if path and isinstance(node, ast.Name) else None


def _outcome(node: ast.expr, module: nn.Module) -> bool | None:
    """Return what a condition comes to by the plain attributes of a module; None where they do not say."""
    if isinstance(node, ast.BoolOp):
        parts, settles = [_outcome(x, module) for x in node.values], isinstance(node.op, ast.Or)
        return settles if settles in parts else None if None in parts else not settles
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = _outcome(node.operand, module)
        return None if inner is None else not inner
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARED:
        left, right = (_plain(x, module) for x in (node.left, node.comparators[0]))
        if not isinstance(left, int | float) or not isinstance(right, int | float):
            return None
        return bool(COMPARED[type(node.ops[0])](left, right))
    value = _plain(node, module)
    return value if isinstance(value, bool) else None


def _plain(node: ast.expr, module: Any) -> object:
    """Return a constant, or an attribute of the module itself that is one; None for others, and for `training`."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return vars(module).get(node.attr) if node.attr != "training" else None
    return None
