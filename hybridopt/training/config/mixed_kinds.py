"""Kinds of values that may be one thing or another: a share or steps, a share or a file, a card or a size."""

import re
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import budget
from ...core.errors import LARGEST_COUNT
from .kinds import Kind, Number, Text, is_number, refused, whole
from .nodes import Node, plain

__all__ = ["HubName", "Interval", "Memory", "ShareOrText"]

HUB = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Interval(Kind):
    """A share of all steps, or a number of steps."""

    allowed: ClassVar[str] = "a share of all steps above 0 and below 1, or a whole number of steps"

    def read(self, key: str, node: Node) -> float:
        """Return the share, or the steps as a float."""
        value = whole(plain(node))
        if not is_number(value) or not (0 < value < 1 or (isinstance(value, int) and 1 <= value <= LARGEST_COUNT)):
            raise refused(key, node, self)
        return float(value)


@dataclass(frozen=True)
class ShareOrText(Kind):
    """A share between 0 and 1, or a text."""

    allowed: ClassVar[str] = "a share above 0 and below 1, a file, or a hub id"

    def read(self, key: str, node: Node) -> float | str:
        """Return the share, or the text."""
        value = plain(node)
        if is_number(value):
            return Number(0, 1, open_low=True, open_high=True).read(key, node)
        if not isinstance(value, str):
            raise refused(key, node, self)
        return Text().read(key, node)


@dataclass(frozen=True)
class Memory(Kind):
    """A card, or a size of memory."""

    allowed: ClassVar[str] = "a card such as 4090, or a size such as 24GiB"

    def read(self, key: str, node: Node) -> str:
        """Return the text, once it is known what it stands for."""
        text = Text().read(key, node)
        budget(text, None, key)
        return text


@dataclass(frozen=True)
class HubName(Kind):
    """The id of a repository on the hub."""

    allowed: ClassVar[str] = "the id of a hub repository, org/name"

    def read(self, key: str, node: Node) -> str:
        """Return the id."""
        text = Text().read(key, node)
        if HUB.fullmatch(text) is None:
            raise refused(key, node, self)
        return text
