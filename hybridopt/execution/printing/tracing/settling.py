"""The `settle` of a rule as lines about vectors, each a row of numbers whose length follows from the matrix."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from torch.fx import Node

from .graphs import Graph, GraphNumber, shape_of
from .updates import operation

__all__ = ["Settling", "Vector", "settling"]

SAME = frozenset(
    {"alias", "clone", "detach", "view", "squeeze", "unsqueeze", "reshape", "_unsafe_view", "contiguous", "lift_fresh"}
)
MADE = {"ones_like": 1.0, "zeros_like": 0.0, "new_zeros": 0.0, "zeros": 0.0, "ones": 1.0}
GIVEN = {"full": 1, "full_like": 1, "new_full": 2, "scalar_tensor": 0}  # which argument is the number


@dataclass(frozen=True)
class Vector:
    """What makes a vector.

    Args:
        name: of it.
        length: "rows", "width", or a number.
        how: "each" (`text` for every entry), "sum" (of all of `reads`), "sums" (of every `every` entries), "repeat"
            (every entry `every` times), "cut" (a part of it) or "join" (`reads` one after the other).
        text: in the language of `operations`.
        reads: the vectors and numbers that are read.
        every: of "sums" and "repeat".
        start: of "cut": the first entry.
    """

    name: str
    length: str
    how: str
    text: str
    reads: tuple[str, ...]
    every: int = 0
    start: int = 0


@dataclass(frozen=True)
class Settling:
    """What a `settle` does.

    Args:
        lines: in order.
        given: the length of every vector that is read from elsewhere: "l_" found by row, "m_" added up, "s_" state,
            "r_", "c_" and "o_" settled before.
        results: by the name that later rounds know it by, the vector.
        kinds: of the results, "row", "col" or "one".
        state: the new value by slot.
    """

    lines: tuple[Vector, ...]
    given: dict[str, str]
    results: dict[str, str]
    kinds: dict[str, str]
    state: dict[str, str]

    @property
    def read(self) -> set[str]:
        """Return the names of all that is read, or handed on."""
        return {x for line in self.lines for x in line.reads} | {*self.results.values(), *self.state.values()}

    @property
    def by_rows(self) -> bool:
        """Return whether every row goes by itself."""
        each = all(line.how == "each" and line.length == "rows" for line in self.lines)
        lengths = [self.length(x) for x in (*self.results.values(), *self.state.values())]
        return each and all(length == "rows" for length in lengths)

    def length(self, name: str) -> str:
        """Return the length of a vector that a line makes, or that is read."""
        return next((line.length for line in self.lines if line.name == name), self.given.get(name, "1"))


def settling(graphs: list[Graph], sizes: tuple[tuple[int, int], ...]) -> Settling:
    """Return what a `settle` does, from its graphs for several sizes; NotImplementedError where that has no words."""
    one = _Vectors(graphs, sizes)
    results, kinds = {}, {}
    for (role, name), node in graphs[0].outputs.items():
        length = one.lengths[one.known[node]] if one.known[node] in one.lengths else "1"
        kind = "one" if length == "1" else "row" if role == "row" else {"width": "col"}.get(length, "")
        if not kind or (role == "row" and length not in ("rows", "1")):
            raise NotImplementedError(f"{name} has {length} entries")
        results[name], kinds[name] = one.known[node], kind
    given = {name: one.lengths[name] for name in graphs[0].inputs}
    return Settling(tuple(one.lines), given, results, kinds, one.state)


class _Vectors:
    """The lines of a graph, node by node; `known` has the vector that a node is, without regard to its shape."""

    def __init__(self, graphs: list[Graph], sizes: tuple[tuple[int, int], ...]):
        self._sizes = sizes
        self.lines: list[Vector] = []
        self.state: dict[str, str] = {}
        self.lengths: dict[str, str] = {}
        self.known: dict[Node, Any] = {}
        for name, node in graphs[0].inputs.items():
            self.known[node] = name
            self.lengths[name] = self._length([graph.inputs[name] for graph in graphs])
        for op, nodes, numbers in Graph.together(graphs):
            self._add(op, nodes, numbers)

    def _length(self, same: Any) -> str:
        totals = [prod(shape_of(node)) for node in same]
        if all(total == 1 for total in totals):
            return "1"
        if totals == [m for m, _ in self._sizes]:
            return "rows"
        if totals == [n for _, n in self._sizes]:
            return "width"
        if len(set(totals)) == 1:
            return str(totals[0])
        raise NotImplementedError(f"vectors of {totals} for {self._sizes}")

    def _add(self, op: str, same: tuple[Node, ...], numbers: Callable[[Any], GraphNumber]) -> None:
        node: Any = same[0]
        if op == "copy_":
            target, value = node.args[:2]
            self.state[self.known[target].removeprefix("s_")] = self.known[value]
        elif op in SAME:
            self.known[node] = self.known[node.args[0]]
        elif op == "split_with_sizes":
            self._split(node, same)
        elif op == "getitem":
            self.known[node] = self.known[node.args[0]][node.args[1]]
        elif op == "cat":
            self._join(node, same)
        elif op == "expand":
            self._expand(node, same)
        elif op in MADE or op in GIVEN:
            text = str(MADE[op]) if op in MADE else numbers(node.args[GIVEN[op]]).text
            self._line(same, "each", text, ())
        elif op in ("sum", "mean", "linalg_vector_norm"):
            self._reduce(op, node, same)
        else:
            text, reads = operation(node, op, self.known, numbers)
            own = self._length(same)
            if any(self.lengths.get(x, "1") not in ("1", own) for x in reads):
                raise NotImplementedError(f"{op} of vectors of other lengths")
            self._line(same, "each", text, reads)

    def _line(self, same, how, text, reads, every=0, start=0, length=None) -> str:
        name = f"v{len(self.lines)}"
        self.lengths[name] = self._length(same) if length is None else length
        self.lines.append(Vector(name, self.lengths[name], how, text, tuple(reads), every, start))
        self.known[same[0]] = name
        return name

    def _reduce(self, op, node, same) -> None:
        value, shape = self.known[node.args[0]], shape_of(node.args[0])
        norm = op == "linalg_vector_norm"
        if norm and node.args[1:2] not in ((), (2,), (2.0,)):
            raise NotImplementedError("a norm that is not the 2-norm")
        place = 2 if norm else 1
        dims = node.args[place] if len(node.args) > place and node.args[place] else range(len(shape))
        over = {d % max(1, len(shape)) for d in dims}
        left = [n for d, n in enumerate(shape) if n > 1 and d not in over]
        gone = [d for d, n in enumerate(shape) if n > 1 and d in over]
        if norm:
            value = self._line((node.args[0],), "each", f"{value} * {value}", (value,), length=self.lengths[value])
        if left and gone and min(gone) < max(d for d, n in enumerate(shape) if n > 1 and d not in over):
            raise NotImplementedError(f"{op} over {dims} of {shape}")
        every = prod(shape[d] for d in gone)
        if gone and left:
            value = self._line(same, "sums", "", (value,), every)
        elif gone:
            whole = self.lengths[value]
            value = self._line(same, "sum", "", (value,), length="1")
            if op == "mean":
                by = {"rows": "rows_", "width": "width_"}.get(whole, f"{float(every)}")
                value = self._line(same, "each", f"div_({value}, {by})", (value,), length="1")
        if op == "mean" and gone and left:
            value = self._line(same, "each", f"div_({value}, {float(every)})", (value,))
        if norm:
            value = self._line(same, "each", f"sqrt_({value})", (value,))
        self.known[node] = value

    def _expand(self, node, same) -> None:
        value, before, after = self.known[node.args[0]], shape_of(node.args[0]), shape_of(node)
        if prod(before) == prod(after):
            self.known[node] = value
            return
        if prod(before) == 1:
            self._line(same, "each", value, (value,))
            return
        before = (1,) * (len(after) - len(before)) + tuple(before)
        if before[-1] != 1 or before[:-1] != after[:-1]:
            raise NotImplementedError(f"expand from {before} to {after}")
        self._line(same, "repeat", "", (value,), after[-1])

    def _split(self, node, same) -> None:
        shape, parts = shape_of(node.args[0]), node.args[1]
        dim = (node.args[2] if len(node.args) > 2 else 0) % len(shape)
        if prod(shape[:dim]) != 1 or any(other.args[1] != parts for other in same):
            raise NotImplementedError("a split of several lines")
        value, each, names, start = self.known[node.args[0]], prod(shape[dim + 1 :]), [], 0
        for count in parts:
            size = count * each
            whole = size == prod(shape)
            cut = value if whole else self._line((node,), "cut", "", (value,), start=start, length=str(size))
            names.append(cut)
            start += size
        self.known[node] = names

    def _join(self, node, same) -> None:
        pieces, dim = node.args[0], (node.args[1] if len(node.args) > 1 else 0) % len(shape_of(node))
        if prod(shape_of(node)[:dim]) != 1:
            raise NotImplementedError("several lines side by side")
        if len(pieces) == 1:
            self.known[node] = self.known[pieces[0]]
            return
        self._line(same, "join", "", [self.known[x] for x in pieces])
