"""What the rows of each format must hold."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from ...core.errors import shown
from .chats import check_chat, check_messages, is_chat, says_nothing
from .faults import RowError

__all__ = ["CHECKS", "EMPTY", "check_text"]


def check_text(values: Mapping[str, Any], column: str) -> None:
    """Raise RowError unless a column is text.

    column: its name.
    """
    value = values.get(column)
    if not isinstance(value, str):
        hint = "; write it in quotes" if isinstance(value, int | float) else ""
        raise RowError(f"{column} is {'missing (null)' if value is None else shown(value)}, not text{hint}")


def _text(values: dict[str, Any]) -> None:
    check_text(values, "text")


def _prompt(values: dict[str, Any]) -> None:
    if not is_chat(values["prompt"]):
        return check_text(values, "prompt")
    turns = check_messages(values["prompt"], "prompt")
    if turns[-1]["role"] not in ("user", "tool"):
        raise RowError(f"prompt ends with {turns[-1]['role']!r}; the last message is the user's")


def _prompt_completion(values: dict[str, Any]) -> None:
    _prompt(values)
    _answer(values, "completion")


def _answer(values: dict[str, Any], column: str) -> None:
    """Raise RowError unless a column answers the prompt: text to text, the assistant's messages to messages."""
    if is_chat(values["prompt"]) != is_chat(values[column]):
        kinds = ["messages" if is_chat(values[name]) else "text" for name in ("prompt", column)]
        raise RowError(
            f"prompt is {kinds[0]}, but {column} is {shown(values[column])}; both are text, or both messages"
        )
    if not is_chat(values[column]):
        return check_text(values, column)
    turns = check_messages(values[column], column)
    for turn, which in ((turns[0], "begins"), (turns[-1], "ends")):
        if turn["role"] != "assistant":
            raise RowError(f"{column} {which} with {turn['role']!r}; it is the assistant's")


def _preference(values: dict[str, Any]) -> None:
    chosen, rejected = values["chosen"], values["rejected"]
    if is_chat(chosen) != is_chat(rejected):
        raise RowError("chosen and rejected are not both text or both messages")
    if _repeats_prompt(values):
        del values["prompt"]  # the chats hold it
    if "prompt" in values:
        _prompt(values)
    elif is_chat(chosen) and chosen[:1] != rejected[:1]:
        raise RowError(
            "chosen and rejected begin with different messages; both answer one prompt, with which both begin, "
            "or which has a column of its own (prompt)"
        )
    for name in ("chosen", "rejected"):
        if "prompt" in values:
            _answer(values, name)
        elif is_chat(values[name]):
            check_chat(values[name], name)
        else:
            check_text(values, name)


def _repeats_prompt(values: Mapping[str, Any]) -> bool:
    """Return whether `prompt` is text that whole chats begin with, as some data sets have it."""
    chats = [values["chosen"], values["rejected"]]
    asked = [
        next((turn.get("content") for turn in chat if isinstance(turn, dict) and turn.get("role") == "user"), None)
        for chat in chats
        if is_chat(chat)
    ]
    return isinstance(values.get("prompt"), str) and len(asked) == 2 and set(map(str, asked)) == {values["prompt"]}


def _messages(values: dict[str, Any]) -> None:
    check_chat(values["messages"], "messages")
    if "tools" in values:
        values["tools"] = _tools(values["tools"])


def _tools(tools: object) -> list[Any]:
    """Return descriptions of tools; those that are JSON within a text are read."""
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools
    except (ValueError, RecursionError) as error:
        raise RowError(f"tools is text that is no JSON: {error}") from error
    if not isinstance(tools, list) or not all(isinstance(each, dict) for each in tools):
        raise RowError(f"tools is {shown(tools)}, not a list of objects")
    return tools


def _labels(values: dict[str, Any]) -> None:
    check_text(values, "text")
    if "text_pair" in values:
        check_text(values, "text_pair")
    label = values["label"]
    if label is None or label == "" or label == -1:
        raise RowError(f"label is missing ({'null' if label is None else shown(label)})")
    if isinstance(label, float):
        raise RowError(f"label is {label}; classes are whole numbers or names (numbers to predict are no task here)")
    if not isinstance(label, str | int):
        raise RowError(f"label is {shown(label)}; one class a row, a whole number or a name")


CHECKS: Mapping[str, Callable[[dict[str, Any]], None]] = {
    "text": _text,
    "prompt": _prompt,
    "prompt_completion": _prompt_completion,
    "preference": _preference,
    "messages": _messages,
    "labels": _labels,
}


def _empty_answer(value: Any) -> bool:
    return says_nothing(value[-1]) if is_chat(value) else not value.strip()


EMPTY: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {  # rows with nothing to learn from
    "text": lambda values: not values["text"].strip(),
    "labels": lambda values: not values["text"].strip(),
    "prompt": lambda values: not is_chat(values["prompt"]) and not values["prompt"].strip(),
    "prompt_completion": lambda values: _empty_answer(values["completion"]),
    "messages": lambda values: all(says_nothing(turn) for turn in values["messages"] if turn["role"] == "assistant"),
    "preference": lambda values: _empty_answer(values["chosen"]) and _empty_answer(values["rejected"]),
}
