"""Formats of others that are read as they are: Alpaca's instructions and ShareGPT's conversations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...core.errors import shown
from .faults import RowError

__all__ = ["ALIASES", "FOREIGN", "Foreign"]

ALIASES: Mapping[str, tuple[str, ...]] = {  # by our columns, what others call them; offered, never taken unasked
    "messages": ("conversations", "conversation", "chat", "dialog", "dialogue", "turns"),
    "prompt": ("question", "instruction", "query", "input", "problem", "context"),
    "completion": ("answer", "response", "output", "target", "solution", "reply"),
    "chosen": ("preferred", "accepted", "winner", "better"),
    "rejected": ("dispreferred", "loser", "worse"),
    "label": ("labels", "category", "class", "sentiment", "intent", "target"),
    "text": ("content", "sentence", "document", "body", "review", "article"),
}
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant"}
SPEAKERS |= {"model": "assistant", "bot": "assistant", "system": "system", "tool": "tool", "observation": "tool"}


@dataclass(frozen=True)
class Foreign:
    """A format of others, and how its rows become ours.

    Args:
        name: as it is known.
        needed: its columns.
        optional: columns that its rows may have.
        format: the name of the format that it is read as.
        values: makes our columns of a row.
        told: what it is read as, for people.
    """

    name: str
    needed: tuple[str, ...]
    optional: tuple[str, ...]
    format: str
    values: Callable[[Mapping[str, Any]], dict[str, Any]]
    told: str


def _alpaca(row: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("instruction", "output"):
        if not isinstance(row.get(name), str):
            raise RowError(f"{name} is {shown(row.get(name))}, not text")
    parts = [row["instruction"], row.get("input")]
    return {
        "prompt": [*_system(row), {"role": "user", "content": "\n\n".join(part for part in parts if part)}],
        "completion": [{"role": "assistant", "content": row["output"]}],
    }


def _sharegpt(row: Mapping[str, Any]) -> dict[str, Any]:
    turns = row.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise RowError(f"conversations is {shown(turns)}, not a list of objects")
    messages = [*_system(row), *(_turn(turn, number) for number, turn in enumerate(turns, 1))]
    return {"messages": messages} | ({"tools": row["tools"]} if row.get("tools") else {})


def _turn(turn: Mapping[str, Any], number: int) -> dict[str, Any]:
    if "from" not in turn or "value" not in turn:
        return dict(turn)  # role and content, under another column's name
    role = SPEAKERS.get(turn["from"]) if isinstance(turn["from"], str) else None
    if role is None:
        raise RowError(f"turn {number} is from {shown(turn['from'])}; known are {', '.join(SPEAKERS)}")
    return {"role": role, "content": turn["value"]}


def _system(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "system", "content": row["system"]}] if row.get("system") else []


FOREIGN = (
    Foreign(
        "alpaca",
        ("instruction", "output"),
        ("input", "system"),
        "prompt_completion",
        _alpaca,
        "a chat of one question (the instruction, an empty line, the input) and one answer",
    ),
    Foreign("sharegpt", ("conversations",), ("system", "tools"), "messages", _sharegpt, "chats"),
)
