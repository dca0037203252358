"""A `look` or an `update` of a rule as lines about elements, rows, columns and single numbers, from its graphs."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

from torch.fx import Node

from .graphs import Graph, GraphNumber
from .updates import number_from, operation, prefixed

__all__ = ["ElementLine", "Elements", "elements"]

KINDS = {"matrix": 3, "row": 1, "col": 2, "one": 0}  # which of both dimensions there are, as bits
SAME = frozenset({"alias", "clone", "detach", "expand", "lift_fresh", "contiguous"})
MADE = {"ones_like": 1.0, "zeros_like": 0.0, "new_zeros": 0.0, "zeros": 0.0, "ones": 1.0}


@dataclass(frozen=True)
class ElementLine:
    """An assignment.

    Args:
        name: of what is assigned.
        kind: "matrix", a number for every element; "row", "col" or "one".
        text: in the language of `operations`; of a sum what is added up.
        reads: names that the text reads.
        sums: "row": `text` is added up along each row; "col": down each column; "one": over all; "": no sum.
    """

    name: str
    kind: str
    text: str
    reads: tuple[str, ...]
    sums: str = ""


@dataclass(frozen=True)
class Elements:
    """What a `look` or an `update` does.

    Args:
        lines: in order.
        rows: by name what `look` finds by row.
        sums: by name what it adds up over rows: a line with `sums` "col" or "one", or a number.
        direction: of `update`.
        state: of `update`, the new value by slot.
    """

    lines: tuple[ElementLine, ...]
    rows: dict[str, str] = field(default_factory=dict)
    sums: dict[str, str] = field(default_factory=dict)
    direction: str = ""
    state: dict[str, str] = field(default_factory=dict)

    def rooted(self, slots: Collection[str]) -> "Elements":
        """Return an `update` that keeps the square roots of these slots."""
        return replace(self, state={k: f"sqrt_({x})" if k in slots else x for k, x in self.state.items()})

    def renamed(self, prefix: str) -> "Elements":
        """Return the same with `prefix` before every name that it assigns."""
        own = {line.name for line in self.lines}

        def fixed(text: str) -> str:
            return prefixed(text, own, prefix)

        lines = tuple(
            replace(x, name=fixed(x.name), text=fixed(x.text), reads=tuple(map(fixed, x.reads))) for x in self.lines
        )
        rows, sums, state = ({k: fixed(x) for k, x in some.items()} for some in (self.rows, self.sums, self.state))
        return Elements(lines, rows, sums, fixed(self.direction), state)

    def needed(self, read: set[str]) -> "Elements":
        """Return a `look` that finds only what `settle` reads: "l_" and "m_" with their names."""
        rows = {name: value for name, value in self.rows.items() if f"l_{name}" in read}
        sums = {name: value for name, value in self.sums.items() if f"m_{name}" in read}
        wanted, lines = {*rows.values(), *sums.values()}, list[ElementLine]()
        for line in reversed(self.lines):
            if line.name in wanted:
                wanted |= set(line.reads)
                lines.insert(0, line)
        return replace(self, lines=tuple(lines), rows=rows, sums=sums)


def elements(graphs: list[Graph]) -> Elements:
    """Return what a method does, from its graphs for several sizes, which differ in numbers alone."""
    one = _Lines(graphs)
    rows, sums, direction = {}, {}, ""
    for (role, name), node in graphs[0].outputs.items():
        value, kind = one.known[number_from(node)]
        if role == "row":
            rows[name] = _of_kind(value, kind, ("row", "one"))
        elif role == "sum":
            sums[name] = _of_kind(value, kind, ("col", "one"))
        else:
            direction = value
    made = [one.made_by(value) for value in sums.values()]
    if any(line is not None and line.sums not in ("col", "one") for line in made):
        raise NotImplementedError("what is added up over rows is worked out further")
    return Elements(tuple(one.lines), rows, sums, direction, one.state)


def _of_kind(value, kind, allowed):
    if kind not in allowed:
        raise NotImplementedError(kind)
    return value


class _Lines:
    """The lines of a graph, node by node."""

    def __init__(self, graphs: list[Graph]):
        self.lines: list[ElementLine] = []
        self.state: dict[str, str] = {}
        self.known: dict[Node, tuple[str, str]] = {}
        for name, node in graphs[0].inputs.items():
            self.known[node] = name, _kind_of_input(name)
        for op, (node, *_), numbers in Graph.together(graphs):
            self._add(op, node, numbers)

    def made_by(self, name: str) -> ElementLine | None:
        """Return the line that assigns a name; None for numbers and inputs."""
        return next((line for line in self.lines if line.name == name), None)

    def _add(self, op: str, node: Any, numbers: Callable[[Any], GraphNumber]) -> None:
        if op == "copy_":
            target, value = node.args[:2]
            self.state[self.known[target][0].removeprefix("s_")] = self.known[value][0]
        elif op in SAME:
            self.known[node] = self.known[node.args[0]]
        elif op in MADE or op in ("full", "full_like", "new_full", "scalar_tensor"):
            self.known[node] = _made(op, node, numbers), "one"
        elif op in ("sum", "mean", "linalg_vector_norm"):
            self._reduce(op, node)
        else:
            text, reads = operation(node, op, {k: v[0] for k, v in self.known.items()}, numbers)
            bits = 0
            for x in node.all_input_nodes:
                bits |= KINDS[self.known[x][1]]
            self._line(node, next(k for k, v in KINDS.items() if v == bits), text, reads)

    def _reduce(self, op: str, node: Any) -> None:
        value, kind = self.known[node.args[0]]
        dims = node.args[2 if op == "linalg_vector_norm" else 1] if len(node.args) > 1 else None
        if kind != "matrix" or (op == "linalg_vector_norm" and node.args[1:2] not in ((), (2,), (2.0,))):
            raise NotImplementedError(op)
        over = {(d + 2) % 2 for d in ((0, 1) if dims is None or dims == [] else dims)}
        result = {frozenset({1}): "row", frozenset({0}): "col", frozenset({0, 1}): "one"}[frozenset(over)]
        if op != "sum" and result != "row":
            raise NotImplementedError(f"{op} down the columns")
        text = f"{value} * {value}" if op == "linalg_vector_norm" else value
        self._line(node, result, text, (value,), sums=result)
        name = self.known[node][0]
        if op == "mean":
            self._line(node, result, f"div_({name}, width_)", (name,))
        elif op == "linalg_vector_norm":
            self._line(node, result, f"sqrt_({name})", (name,))

    def _line(self, node, kind, text, reads, sums=""):
        name = f"x{len(self.lines)}"
        self.lines.append(ElementLine(name, kind, text, tuple(reads), sums))
        self.known[node] = name, kind


def _made(op, node, numbers) -> str:
    if op in MADE:
        return str(MADE[op])
    place = {"full": 1, "full_like": 1, "new_full": 2, "scalar_tensor": 0}[op]
    return numbers(node.args[place]).text


def _kind_of_input(name: str) -> str:
    if name in ("g", "p"):
        return "matrix"
    return {"s": "matrix", "n": "one", "r": "row", "c": "col", "o": "one"}[name[0]]
