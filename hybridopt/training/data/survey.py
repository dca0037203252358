"""What all rows of a table have in common, and what is odd about some: seen in one pass, kept small."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ...core.errors import HybridOptError
from .chats import is_chat
from .checks import CHECKS, EMPTY
from .faults import RowError
from .formats import Format
from .sizes import check_size

__all__ = ["Survey"]

SHAPES = 256  # orders of roles of which a row is kept
SIMPLE = {"role", "content"}  # keys of messages whose type is always the same


class Survey:
    """Rows as they pass: each is checked, and counted.

    Args:
        format: of the rows.
    """

    def __init__(self, format: Format):
        self.format = format
        self.rows = self.empty = self.same = 0
        self.labels: Counter[str | int] = Counter()
        self.kinds: dict[str, set[type]] = {}  # types by column
        self.simple = True  # whether no message has other keys than role and content
        self.shapes: dict[tuple[Any, ...], tuple[tuple[int, int], dict[str, Any]]] = {}  # a row of every order
        self._chats: dict[str, bool] = {}

    @property
    def conversational(self) -> bool:
        """Whether rows are messages, which a template writes as text."""
        return any(self._chats.values())

    def add(self, values: dict[str, Any], row: tuple[int, int] = (0, 0)) -> None:
        """Check a row and count it; RowError says what is wrong with it.

        row: number of its place, and its line there.
        """
        CHECKS[self.format.name](values)
        check_size(values)
        chats = {
            name: is_chat(values[name]) for name in values if name in (*self.format.needed, "prompt", "text_pair")
        }
        if not self.rows:
            self._chats = chats
        self._check_like_first(chats)
        self.rows += 1
        self.empty += EMPTY[self.format.name](values)
        self.same += self.format.name == "preference" and values["chosen"] == values["rejected"]
        if self.format.name == "labels":
            self._count_label(values["label"])
        for name, value in values.items():
            self.kinds.setdefault(name, set()).add(type(value))
            if chats.get(name):
                self.simple = self.simple and all(message.keys() <= SIMPLE for message in value)
        if self.conversational and len(self.shapes) < SHAPES:
            self.shapes.setdefault(self._shape(values), (row, values))

    def finish(self, name: str) -> list[str]:
        """Return lines for people; HybridOptError where nothing can be learnt.

        name: of the setting, such as "data.train".
        """
        if self.rows and self.empty == self.rows:
            raise HybridOptError(f"{name}: all {self.rows} rows are empty: there is nothing to learn ({self._what()})")
        if self.rows and self.same == self.rows:
            raise HybridOptError(f"{name}: chosen and rejected are the same in all {self.rows} rows: nothing to learn")
        told = [f"{name}: {_of(self.empty, self.rows)} empty ({self._what()}); kept"] if self.empty else []
        return told + (
            [f"{name}: chosen and rejected are the same in {_of(self.same, self.rows)}"] if self.same else []
        )

    def _shape(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return what templates refuse chats for: the order of roles, and whether there are tools or texts."""
        return tuple(
            (name, *((turn["role"], bool(turn.get("content")), bool(turn.get("tool_calls"))) for turn in values[name]))
            for name, chat in self._chats.items()
            if chat
        )

    def _check_like_first(self, chats: Mapping[str, bool]) -> None:
        if chats == self._chats:
            return
        missing = sorted(self._chats.keys() ^ chats.keys())
        if missing:
            which, other = ("no", "has one") if missing[0] in self._chats else ("a", "has none")
            raise RowError(f"has {which} {missing[0]}, but the first row {other}; all have, or none")
        name = next(name for name in chats if chats[name] != self._chats[name])
        kinds = ["a list of messages" if each[name] else "text" for each in (chats, self._chats)]
        raise RowError(f"{name} is {kinds[0]}, but {kinds[1]} in the first row; all are one or the other")

    def _count_label(self, label: str | int) -> None:
        label = str(label).lower() if isinstance(label, bool) else label
        first = next(iter(self.labels), label)
        if isinstance(first, str) != isinstance(label, str):
            kinds = ["text" if isinstance(each, str) else "a number" for each in (label, first)]
            raise RowError(f"label {label!r} is {kinds[0]}, but earlier ones are {kinds[1]} ({first!r})")
        self.labels[label] += 1

    def _what(self) -> str:
        answers = {
            "prompt_completion": "completion",
            "messages": "what the assistant says",
            "preference": "both answers",
        }
        return answers.get(self.format.name, self.format.needed[0])


def _of(count: int, rows: int) -> str:
    return f"{count} of {rows} rows"
