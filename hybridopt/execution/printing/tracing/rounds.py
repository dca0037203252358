"""From the methods of a rule with rounds to lists of what is done to elements, rows, columns and single numbers."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

from ....core.contracts import Rule
from .elements import Elements, elements
from .graphs import Graph, graph_of
from .settling import Settling, settling

__all__ = ["RoundsOfRule", "rounds_of"]

SIZES = (5, 7), (13, 11), (17, 19)  # rows and columns of what is traced, wide and tall: they explain what differs


@dataclass(frozen=True)
class RoundsOfRule:
    """All methods of a rule.

    Names read are "g", "p", "s_<slot>", "n_<number>", and "r_", "c_" or "o_" of what was settled by row, by column or
    for all.

    Args:
        looks: one a round.
        settles: one a round.
        update: the last step.
        numbers: names of the rule's numbers.
        settled: kinds ("row", "col", "one") of what earlier rounds have settled, by name.
    """

    looks: tuple[Elements, ...]
    settles: tuple[Settling, ...]
    update: Elements
    numbers: tuple[str, ...]
    settled: dict[str, str]

    @property
    def by_rows(self) -> bool:
        """Return whether every row goes by itself, so that all can be done with it at once."""
        return not any(look.sums for look in self.looks) and all(one.by_rows for one in self.settles)

    def renamed(self) -> "RoundsOfRule":
        """Return the same with other names in every look and in the update, so that they fit into one function."""
        looks = tuple(look.renamed(f"l{i}") for i, look in enumerate(self.looks))
        return replace(self, looks=looks, update=self.update.renamed("u"))


@lru_cache(maxsize=1024)
def rounds_of(rule: Any, elementwise: tuple[str, ...], fixed: tuple[int | None, int | None]) -> RoundsOfRule | None:
    """Return what a rule does; None where that cannot be said in the language of `operations`.

    Args:
        rule: with looks of at least 1.
        elementwise: the slots that go with the elements.
        fixed: rows and columns that the rule is made for; None: any, of more than one.
    """
    try:
        return _traced(cast(Rule, rule), elementwise, _sizes(fixed))
    except Exception:  # whatever a rule does that tracing does not take, such as reading a value: it goes another way
        return None


def _sizes(fixed):
    """Return the sizes that are traced: beside a side that is fixed the other one is longer, shorter, and longer."""
    if fixed == (None, None):
        return SIZES
    own = fixed[0] or fixed[1]
    others = own + 6, max(2, own - own // 3), 2 * own + 3
    return tuple((own, x) if fixed[0] else (x, own) for x in others)


def _traced(rule: Rule, elementwise: tuple[str, ...], sizes) -> RoundsOfRule:
    methods = [_Method(rule, elementwise, size) for size in sizes]
    looks, settles = [], []
    for i in range(rule.looks or 0):
        look = elements([one.look(i) for one in methods])
        settles.append(settling([one.settle(i) for one in methods], sizes))
        looks.append(look.needed(settles[-1].read))
        for one in methods:
            one.settled.update(settles[-1].kinds)
    update = elements([one.update() for one in methods])
    return RoundsOfRule(tuple(looks), tuple(settles), update, methods[0].numbers, methods[0].settled)


class _Method:
    """The methods of a rule for one size, as graphs."""

    def __init__(self, rule: Rule, elementwise: tuple[str, ...], size: tuple[int, int]):
        self.rule, self.elementwise, self.size = rule, elementwise, size
        self.slots, self.numbers = rule.slots(size), tuple(rule.numbers(1))
        self.settled: dict[str, str] = {}
        self.found: tuple[dict, dict] = ({}, {})

    def look(self, i: int) -> Graph:
        """Trace round `i`."""

        def look(at):
            rows, sums = self.rule.look(i, at["g"], self._state(at, True), self._param(at), self._now(at))
            self.found = ({k: tuple(x.shape) for k, x in rows.items()}, {k: tuple(x.shape) for k, x in sums.items()})
            return {("row", k): x for k, x in rows.items()} | {("sum", k): x for k, x in sums.items()}

        return graph_of(look, self._elements(), self.size)

    def settle(self, i: int) -> Graph:
        """Trace the end of round `i`."""
        rows, sums = self.found
        shapes = {f"l_{k}": shape for k, shape in rows.items()} | {f"m_{k}": shape for k, shape in sums.items()}
        whole = {f"s_{k}": slot.shape for k, slot in self.slots.items() if k not in self.elementwise}

        def settle(at):
            by_row, added = ({k: at[head + k] for k in some} for head, some in (("l_", rows), ("m_", sums)))
            by_row, rest = self.rule.settle(i, by_row, added, self._state(at, False), self._now(at))
            return {("row", k): x for k, x in by_row.items()} | {("rest", k): x for k, x in rest.items()}

        return graph_of(settle, shapes | whole | self._told(), self.size)

    def update(self) -> Graph:
        """Trace `update`."""

        def update(at):
            out = self.rule.update(at["g"], self._state(at, True), self._param(at), self._now(at))
            return {("direction", ""): out}

        return graph_of(update, self._elements(), self.size)

    def _elements(self):
        own = {f"s_{k}": self.size for k in self.elementwise}
        return {"g": self.size, "p": self.size} | own | self._told()

    def _told(self):
        m, n = self.size
        shapes = {"row": (m, 1), "col": (1, n), "one": (1, 1)}
        settled = {f"{kind[0]}_{name}": shapes[kind] for name, kind in self.settled.items()}
        return {f"n_{name}": () for name in self.numbers} | settled

    def _now(self, at):
        settled = {name: at[f"{kind[0]}_{name}"] for name, kind in self.settled.items()}
        return {"key": 0, **{name: at[f"n_{name}"] for name in self.numbers}, **settled}

    def _state(self, at, elementwise):
        return {k: at[f"s_{k}"] for k in self.slots if (k in self.elementwise) == elementwise}

    def _param(self, at):
        return at["p"] if self.rule.reads_param else None
