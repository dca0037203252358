"""YAML as a tree of texts that know their lines: what a text means is decided by the key it is given for."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from ...core.errors import HybridOptError, shown

__all__ = ["LARGEST", "Node", "empty", "parse", "plain"]

LARGEST = 2**18  # characters: PyYAML reads some hundred thousand a second
DEEPEST = 32  # levels of mappings and lists
LONGEST_NUMBER = 400  # characters
EMPTY = {"", "~", "null"}
TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}  # as YAML 1.1 has it
WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)")
REAL = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
ENDLESS = re.compile(r"([-+]?)\.(inf|nan)", re.IGNORECASE)


@dataclass(frozen=True)
class Node:
    """A value with the place where it was given.

    Args:
        value: text as it was written, a list, or a mapping.
        place: for errors, such as "run.yaml:12".
        quoted: whether the text stood in quotes, and so can be no number.
    """

    value: "str | list[Node] | dict[str, Node]"
    place: str = field(default="", compare=False)
    quoted: bool = False


def plain(node: Node) -> Any:
    """Return a tree as plain data: texts without quotes that look like null, a truth value or a number become that.

    As YAML 1.1 has it, but for 1e-4, which is a number here, and for 1:30 and dates, which are texts.
    """
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value if node.quoted else _resolved(node.value)


def empty(node: Node) -> bool:
    """Return whether nothing was written at all, as behind a key without a value; null was written."""
    return node.value == "" and not node.quoted


def _resolved(text: str) -> Any:
    if text.lower() in EMPTY:
        return None
    if text.lower() in TRUTH:
        return TRUTH[text.lower()]
    if len(text) > LONGEST_NUMBER:
        return text
    if WHOLE.fullmatch(text):
        return int(text)
    endless = ENDLESS.fullmatch(text)
    if endless is not None:
        return float(endless[1] + endless[2])
    return float(text) if REAL.fullmatch(text) and not re.match(r"[-+]?0\d", text) else text


def parse(text: str, place: Callable[[int], str]) -> Node:
    """Return the tree of a YAML text.

    Args:
        text: one document.
        place: says of a line, counted from 1, where it is.

    Raises:
        HybridOptError: the text is no YAML, too long, or nested too deeply; a key is given twice; or it has anchors,
            aliases or tags, which can make much of little and name code.
    """
    if len(text) > LARGEST:
        raise HybridOptError(f"{place(1)}: more than {LARGEST} characters are no settings; give a shorter file")
    try:
        reader = _Reader(text, place)
        try:
            found = reader.get_single_node()
        finally:
            reader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise HybridOptError(f"{place(mark.line + 1 if mark else 1)}: {_said(error)}") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise HybridOptError(
            f"{place(line)}: the character {chr(error.character)!r} is not allowed in YAML"
        ) from error
    return Node("", place(1)) if found is None else _node(found, place)


class _Reader(yaml.SafeLoader):
    """Composes nodes, and refuses what plain settings have no use for."""

    def __init__(self, text: str, place: Callable[[int], str]):
        super().__init__(text)
        self._place, self._depth = place, 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node; raise HybridOptError for anchors, aliases, tags, and too many levels."""
        event: Any = self.peek_event()
        where = self._place(event.start_mark.line + 1)
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise HybridOptError(
                f"{where}: anchors and aliases (&{event.anchor}, *{event.anchor}) are not taken; write the value out, "
                "and put texts that begin with & or * in quotes"
            )
        if event.tag is not None:
            raise HybridOptError(
                f"{where}: the tag {shown(event.tag)} is not taken: a file of settings names no types and no code; "
                "leave it out, and put texts that begin with ! in quotes"
            )
        if self._depth >= DEEPEST:
            raise HybridOptError(f"{where}: more than {DEEPEST} levels of lists and mappings are no settings")
        self._depth += 1
        found = super().compose_node(parent, index)
        self._depth -= 1
        return found


def _said(error: yaml.MarkedYAMLError) -> str:
    said = "; ".join(text for text in (error.problem, error.context) if text)
    if error.problem and "\\t" in error.problem:
        return f"a tab, and YAML is indented by spaces only ({said})"
    if error.problem and "mapping values are not allowed" in error.problem:
        return (
            f"this is no YAML ({said}); put texts that have ': ' in them in quotes, and a space behind the colon of "
            "every key (key: value)"
        )
    return f"this is no YAML ({said})"


def _node(found: Any, place: Callable[[int], str], line: int | None = None) -> Node:
    """Return what was composed, as found in `line`, that of its key, or in its own."""
    where = place(found.start_mark.line + 1 if line is None else line)
    if isinstance(found, yaml.ScalarNode):
        return Node(found.value, where, found.style is not None)
    if isinstance(found, yaml.SequenceNode):
        return Node([_node(child, place) for child in found.value], where)
    children: dict[str, Node] = {}
    for key, value in found.value:
        at = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise HybridOptError(f"{place(at)}: a key that is a list or a mapping is not allowed; give a word")
        if key.value in children:
            first = children[key.value].place
            raise HybridOptError(f"{place(at)}: {shown(key.value)} is given twice, first at {first}; keep one of them")
        _check_space(key, value, place(at))
        children[key.value] = _node(value, place, at)
    return Node(children, where)


def _check_space(key: yaml.ScalarNode, value: Any, place: str) -> None:
    """Raise HybridOptError for {r:8}, which YAML reads as a key 'r:8' without a value."""
    name, colon, meant = key.value.partition(":")
    bare = key.style is None and isinstance(value, yaml.ScalarNode) and value.style is None and value.value == ""
    if colon and bare:
        raise HybridOptError(
            f"{place}: {shown(key.value)} has no value, as YAML wants a space behind the colon; write {name}: {meant}"
        )
