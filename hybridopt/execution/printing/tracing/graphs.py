"""Functions of tensors as graphs, for several sizes of a matrix, and how the numbers in them follow from the size."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import RLock
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import Graph as FxGraph
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx

from .operations import number

__all__ = ["Graph", "GraphNumber", "dtype_of", "fx_graph", "graph_of", "name_of", "shape_of"]

_tracing = RLock()  # torch.fx traces in one thread at a time

FORMULAS: dict[str, Callable[[int, int], float]] = {  # of rows and columns, as the language writes them
    "rows_": lambda m, n: m,
    "width_": lambda m, n: n,
    "(rows_ * width_)": lambda m, n: m * n,
    "div_(1.0, rows_)": lambda m, n: 1 / m,
    "div_(1.0, width_)": lambda m, n: 1 / n,
    "div_(1.0, rows_ * width_)": lambda m, n: 1 / (m * n),
    "sqrt_(rows_ * width_)": lambda m, n: math.sqrt(m * n),
    "sqrt_(max_(rows_, width_))": lambda m, n: math.sqrt(max(m, n)),
}


@dataclass(frozen=True)
class GraphNumber:
    """A number of a graph: its text, and its value in the first of the sizes."""

    text: str
    value: float


@dataclass(frozen=True)
class Graph:
    """A traced function.

    Args:
        nodes: its operations, in order.
        inputs: by name.
        outputs: what it returns, by role and name.
        size: rows and columns of the matrix that it was traced for.
    """

    nodes: tuple[Node, ...]
    inputs: dict[str, Node]
    outputs: dict[tuple[str, str], Node]
    size: tuple[int, int]

    @staticmethod
    def together(graphs: "list[Graph]") -> Iterator[tuple[str, tuple[Node, ...], Callable[[Any], GraphNumber]]]:
        """Yield operation, its nodes, and what says of a number in the first one how it follows from the size.

        Raises:
            NotImplementedError: the graphs differ in more than numbers.
        """
        if len({len(graph.nodes) for graph in graphs}) > 1:
            raise NotImplementedError("other operations for other sizes")
        sizes = [graph.size for graph in graphs]
        for same in zip(*(graph.nodes for graph in graphs), strict=True):
            if len({name_of(node) for node in same}) > 1:
                raise NotImplementedError("other operations for other sizes")
            yield name_of(same[0]), same, _Explained(same, sizes)


class _Explained:
    """Says of the numbers among the arguments of a node how they follow from the size."""

    def __init__(self, same: tuple[Node, ...], sizes: list[tuple[int, int]]):
        self._same, self._sizes = same, sizes

    def __call__(self, value: Any) -> GraphNumber:
        """Return the text of a number that is an argument of the first node."""
        for xs in _arguments(self._same):
            if xs[0] is value or (isinstance(value, int | float) and xs[0] == value and not isinstance(xs[0], Node)):
                return self._explain(xs)
        raise NotImplementedError(value)

    def _explain(self, xs: tuple) -> GraphNumber:
        if not all(isinstance(x, int | float) for x in xs):
            raise NotImplementedError(xs)
        if all(x == xs[0] for x in xs):
            return GraphNumber(number(xs[0]), xs[0])
        for text, formula in FORMULAS.items():
            if all(math.isclose(formula(*size), x, rel_tol=1e-12) for size, x in zip(self._sizes, xs, strict=True)):
                return GraphNumber(text, xs[0])
        raise NotImplementedError(f"{xs} for {self._sizes}")


def _arguments(same: tuple[Node, ...]) -> list[tuple]:
    """Return what nodes are given, place by place, and the values of equal keywords."""
    by_place = list(zip(*(node.args for node in same), strict=True))
    keys = [key for key in same[0].kwargs if all(key in node.kwargs for node in same)]
    return by_place + [tuple(node.kwargs[key] for node in same) for key in keys]


def graph_of(
    function: Callable[[dict[str, Tensor]], dict[tuple[str, str], Tensor]],
    shapes: dict[str, tuple[int, ...]],
    size: tuple[int, int],
) -> Graph:
    """Trace a function of tensors by name; what it changes in place it copies there at the end.

    Args:
        function: returns tensors by role and name.
        shapes: of the tensors.
        size: rows and columns of the matrix.
    """
    names: list[tuple[str, str]] = []

    def on_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
        out = function(dict(zip(shapes, tensors, strict=True)))
        names[:] = list(out)
        return tuple(out.values())

    graph = fx_graph(on_tensors, shapes.values())
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    inputs = dict(zip(shapes, (node for node in graph.nodes if node.op == "placeholder"), strict=True))
    (last,) = (node for node in graph.nodes if node.op == "output")
    found = last.args[0] if isinstance(last.args[0], tuple | list) else (last.args[0],)
    return Graph(tuple(nodes), inputs, dict(zip(names, found, strict=True)), size)


def fx_graph(function: Callable[..., Any], shapes: Iterable[tuple[int, ...]]) -> FxGraph:
    """Trace a function of float32 tensors of some shapes; what it changes in place it copies there at the end."""
    made = make_fx(functionalize(function, remove="mutations_and_views"), tracing_mode="fake")
    with _tracing:
        return made(*(torch.ones(shape, dtype=torch.float32, device="cpu") for shape in shapes)).graph


def dtype_of(node: Node) -> torch.dtype:
    """Return the dtype of what a node makes."""
    dtype: torch.dtype = node.meta["val"].dtype
    return dtype


def name_of(node: Node) -> str:
    """Return the name of an operation without its overload, and without saying that it copies: "view"."""
    name = str(getattr(node.target, "__name__", node.target)).removeprefix("aten.").split(".")[0]
    return name if name == "copy" else name.removesuffix("_copy")


def shape_of(node: Node) -> tuple[int, ...]:
    """Return the shape of what a node makes."""
    return tuple(node.meta["val"].shape if "val" in node.meta else node.meta["tensor_meta"].shape)
