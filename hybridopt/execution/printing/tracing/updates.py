"""From the `update` of a rule to a list of assignments, element by element."""

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node

from ....core.contracts import Rule
from .graphs import GraphNumber, dtype_of, fx_graph, name_of
from .operations import OPERATIONS, number

__all__ = ["Traced", "number_from", "operation", "prefixed", "printable", "traced"]

SIDE = 8  # of the matrices that are traced: sizes do not matter
NUMBERS = frozenset({"add", "sub", "mul", "div", "eq", "ge", "gt", "le", "lt", "maximum", "minimum", "rsub", "where"})
SILENT = ("alpha", "value")  # keywords that say something about the arithmetic, and are printed
EMPTY = ("memory_format", "non_blocking")  # those that say nothing about it


@dataclass(frozen=True)
class Traced:
    """What a rule does to one element, as text in the language of `operations`.

    Args:
        lines: (name, text) of every assignment, in order. Texts read "g" (the gradient), "p" (the weight),
            "n_<number>", "s_<slot>" and earlier names.
        direction: the name that holds the direction at the end.
        state: the name that holds the new value, by slot; slots that do not move are missing.
        numbers: names of the rule's numbers, as its `numbers` has them.
        slots: names of the rule's state.
    """

    lines: tuple[tuple[str, str], ...]
    direction: str
    state: dict[str, str]
    numbers: tuple[str, ...]
    slots: tuple[str, ...]

    def renamed(self, prefix: str) -> "Traced":
        """Return the same with `prefix` before every name that it assigns, so that two rules fit into one kernel."""
        own = {name for name, _ in self.lines}

        def fixed(text: str) -> str:
            return prefixed(text, own, prefix)

        lines = tuple((fixed(name), fixed(text)) for name, text in self.lines)
        state = {slot: fixed(name) for slot, name in self.state.items()}
        return Traced(lines, fixed(self.direction), state, self.numbers, self.slots)


def printable(rule: Rule) -> bool:
    """Return whether a rule can be printed: it goes element by element, by operations that are known."""
    return rule.local and not rule.looks and not rule.products and _tried(cast(Hashable, rule)) is not None


def traced(rule: Rule) -> Traced:
    """Trace the `update` of a rule that is `printable`."""
    found = _tried(cast(Hashable, rule))
    assert found is not None
    return found


@lru_cache(maxsize=256)
def _tried(rule: Any) -> Traced | None:
    try:
        return _trace(rule)
    except Exception:  # whatever a rule does that tracing does not take, such as reading a value: it goes another way
        return None


def _trace(rule: Rule) -> Traced:
    shape = (SIDE, SIDE)
    slots, numbers = tuple(rule.slots(shape)), tuple(rule.numbers(1))
    names = ("g", "p", *(f"n_{name}" for name in numbers), *(f"s_{name}" for name in slots))
    sizes = shape, shape, *[()] * len(numbers), *[shape] * len(slots)
    graph = fx_graph(_update_of(rule, slots, numbers), sizes)
    known = dict(zip((node for node in graph.nodes if node.op == "placeholder"), names, strict=True))
    lines: list[tuple[str, str]] = []
    state: dict[str, str] = {}
    direction = ""
    for node in graph.nodes:
        if node.op == "output":
            direction = known[number_from(node.args[0])]
        elif node.op == "call_function" and name_of(node) == "copy_":
            state[known[node.args[0]].removeprefix("s_")] = known[node.args[1]]
        elif node.op == "call_function":
            known[node] = f"x{len(lines)}"
            lines.append((known[node], operation(node, name_of(node), known, _as_it_is)[0]))
    return Traced(tuple(lines), direction, state, numbers, slots)


def number_from(node: Any) -> Node:
    """Return a node of which the numbers are read as float32; NotImplementedError for truths and other dtypes."""
    if not isinstance(node, Node) or dtype_of(node) != torch.float32:
        raise NotImplementedError(f"{node} is not float32")
    return node


def _as_it_is(x: float) -> GraphNumber:
    return GraphNumber(number(x), x)


def _update_of(rule: Rule, slots: tuple[str, ...], numbers: tuple[str, ...]) -> Callable[..., Tensor]:
    def update(grad: Tensor, param: Tensor, *rest: Tensor) -> Tensor:
        now = dict(zip(numbers, rest, strict=False))
        state = dict(zip(slots, rest[len(numbers) :], strict=True))
        return rule.update(grad, state, param if rule.reads_param else None, {"key": 0, **now})

    return update


def operation(node: Node, name: str, known: Any, numbers: Callable[[Any], Any]) -> tuple[str, tuple[str, ...]]:
    """Return the text of an operation, and the names that it reads.

    Args:
        node: of a graph.
        name: of the operation.
        known: the name of every node.
        numbers: says what a number is called (`.text`), and what it is (`.value`).

    Raises:
        NotImplementedError: it has no text.
    """
    if name not in OPERATIONS or not {*node.kwargs} <= {*SILENT, *EMPTY}:
        raise NotImplementedError(f"{name} with {list(node.kwargs)}")
    for place, x in enumerate(node.args):
        if isinstance(x, Node) and not (name == "where" and place == 0):
            number_from(x)
    given = [known[x] if isinstance(x, Node) else _number(x, name, numbers) for x in node.args]
    more = {key: _number(x, "", numbers) for key, x in node.kwargs.items() if key in SILENT}
    reads = [known[x] for x in node.all_input_nodes]
    return OPERATIONS[name](*given, **more), tuple(reads)


def _number(x: Any, name: str, numbers: Callable[[Any], Any]) -> Any:
    """Return a number as its text where the operation takes that, else as it is, which must not follow from a size."""
    if x is None or isinstance(x, bool | str):
        return x
    found = numbers(x)
    if name in NUMBERS:
        return found.text
    if found.text != number(found.value):
        raise NotImplementedError(f"{name} with a number that follows from the size")
    return x


def prefixed(text: str, names: Collection[str], prefix: str) -> str:
    """Return a text with a prefix before some of the names in it.

    Args:
        text: in the language of `operations`.
        names: which.
        prefix: of them.
    """
    return "".join(f"{prefix}{word}" if word in names else word for word in _words(text))


def _words(text: str) -> list[str]:
    """Cut a text into names and what stands between them."""
    out, word = [], ""
    for character in text:
        if character.isalnum() or character == "_":
            word += character
            continue
        out += [word, character]
        word = ""
    return [*out, word]
