"""The kinds of values that keys of a run take: how each is read, and what is allowed, in words."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from sys import float_info
from typing import Any, ClassVar, Protocol

from ...core.errors import LARGEST_COUNT, HybridOptError, check_choice, check_share, shown
from .nodes import Node, plain

__all__ = ["Flag", "Kind", "Count", "Names", "Number", "OneOf", "Options", "Short", "Text", "Texts"]
__all__ += ["is_number", "refused", "whole"]


@dataclass(frozen=True)
class Short:
    """The key of a section that is meant where a value alone is given for the section.

    Args:
        key: of the section.
    """

    key: str


class Kind(Protocol):
    """A kind of values."""

    @property
    def allowed(self) -> str:
        """Return what is allowed, in words that follow "give"."""

    def read(self, key: str, node: Node) -> Any:
        """Return the value that was given for a key; HybridOptError, naming the key, for what is not allowed."""


@dataclass(frozen=True)
class Count(Kind):
    """Count numbers from `low` to `high`."""

    low: int = 0
    high: int = LARGEST_COUNT

    @property
    def allowed(self) -> str:
        """Return the limits."""
        return f"a whole number from {self.low}" + ("" if self.high == LARGEST_COUNT else f" to {self.high}")

    def read(self, key: str, node: Node) -> int:
        """Return the number; 2.0 is a whole one, too."""
        value = whole(plain(node))
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise refused(key, node, self)
        return value


@dataclass(frozen=True)
class Number(Kind):
    """Real numbers from `low` to `high`; the ends that are open are not allowed themselves."""

    low: float = 0
    high: float = float("inf")
    open_low: bool = False
    open_high: bool = False

    @property
    def allowed(self) -> str:
        """Return the limits."""
        low = f"above {self.low:g}" if self.open_low else f"from {self.low:g}"
        return f"a number {low}" + ("" if self.high == float("inf") else f" {self._upper}")

    @property
    def _upper(self) -> str:
        return f"and below {self.high:g}" if self.open_high else f"to {self.high:g}"

    def read(self, key: str, node: Node) -> float:
        """Return the number."""
        value = plain(node)
        if self.high == 1:
            check_share("", key, value, self.low)
        if not is_number(value) or not self._holds(value):
            raise refused(key, node, self)
        return float(value)

    def _holds(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= min(self.high, float_info.max))


@dataclass(frozen=True)
class Flag(Kind):
    """True or false."""

    allowed: ClassVar[str] = "true or false"

    def read(self, key: str, node: Node) -> bool:
        """Return the truth value; 0 and 1 are none."""
        value = plain(node)
        if not isinstance(value, bool):
            raise refused(key, node, self)
        return value


@dataclass(frozen=True)
class Text(Kind):
    """A text as it is written, also one that looks like a number."""

    allowed: ClassVar[str] = "a text"

    def read(self, key: str, node: Node) -> str:
        """Return the text."""
        if not isinstance(node.value, str) or not node.value.strip() or (plain(node) is None):
            raise refused(key, node, self)
        return node.value


@dataclass(frozen=True)
class OneOf(Kind):
    """One of some words.

    Args:
        choices: returns the words; they are looked up when they are needed.
        ending: texts that end so are allowed, too, such as ".json"; "": none.
        what: those texts, in words.
    """

    choices: Callable[[], Iterable[str]]
    ending: str = ""
    what: str = ""

    @property
    def allowed(self) -> str:
        """Return the words."""
        return ", ".join([*self.choices(), *([self.what] if self.what else [])])

    def read(self, key: str, node: Node) -> str:
        """Return the word; hyphens and underscores are alike."""
        value = node.value if isinstance(node.value, str) else plain(node)
        if self.ending and isinstance(value, str) and value.endswith(self.ending):
            return value
        known = {name.replace("-", "_"): name for name in self.choices()}
        meant = known.get(value.replace("-", "_"), value) if isinstance(value, str) else value
        check_choice("", key, meant, known.values())
        return str(meant)


@dataclass(frozen=True)
class Texts(Kind):
    """Several texts; one alone is a list of one.

    Args:
        choices: returns the only words that are allowed; None: any text is.
        single: whether one text alone stays a text, which then means something else.
        needed: whether there has to be one.
    """

    choices: Callable[[], Iterable[str]] | None = None
    single: bool = False
    needed: bool = False

    @property
    def allowed(self) -> str:
        """Return what each of them may be."""
        return "a text, or a list of texts" if self.choices is None else f"a list of: {', '.join(self.choices())}"

    def read(self, key: str, node: Node) -> str | tuple[str, ...]:
        """Return the texts."""
        kind: Kind = Text() if self.choices is None else OneOf(self.choices)
        if node.value == [] and self.needed:
            raise HybridOptError(f"{key}=[] is not allowed; give at least one")
        if isinstance(node.value, list):
            return tuple(kind.read(f"{key}[{i}]", child) for i, child in enumerate(node.value))
        if isinstance(node.value, dict) or plain(node) is None:
            raise refused(key, node, self)
        found = kind.read(key, node)
        return found if self.single else (found,)


@dataclass(frozen=True)
class Names(Kind):
    """A mapping from names to names."""

    allowed: ClassVar[str] = "a mapping of names, such as {prompt: question}"

    def read(self, key: str, node: Node) -> dict[str, str]:
        """Return the mapping."""
        if not isinstance(node.value, dict):
            raise refused(key, node, self)
        return {name: Text().read(f"{key}.{name}", child) for name, child in node.value.items()}


@dataclass(frozen=True)
class Options(Kind):
    """Options of something that checks them itself."""

    allowed: ClassVar[str] = "a mapping of options, such as {density: 0.25}"

    def read(self, key: str, node: Node) -> dict[str, Any]:
        """Return the options as plain data."""
        if not isinstance(node.value, dict):
            raise refused(key, node, self)
        found: dict[str, Any] = plain(node)
        return found


def whole(value: Any) -> Any:
    """Return 2 for 2.0, and anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def is_number(value: object) -> bool:
    """Return whether a value is a number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def refused(key: str, node: Node, kind: Kind) -> HybridOptError:
    """Return the error for a value that is not allowed.

    Args:
        key: that it was given for.
        node: the value.
        kind: says what is allowed.
    """
    quotes = (
        isinstance(node.value, str) and node.value and node.quoted and not isinstance(plain(Node(node.value)), str)
    )
    cure = f"give {kind.allowed}" + (", without quotes" if quotes else "")
    return HybridOptError(f"{key}={shown(plain(node))} is not allowed; {cure}")
