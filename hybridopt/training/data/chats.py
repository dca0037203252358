"""What a chat must be, so that the template of a tokenizer can write it."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import nearest, shown
from .faults import RowError

__all__ = ["check_chat", "check_messages", "is_chat", "says_nothing"]

ROLES = ("system", "user", "assistant", "tool")
WEIGHTS = ("weight", "train", "loss")  # by which others say of a message how far it is learnt
ALSO = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "function": "tool"}


def is_chat(value: object) -> bool:
    """Return whether a value is a list, as chats are, rather than text."""
    return isinstance(value, list)


def check_chat(messages: object, column: str) -> None:
    """Raise RowError unless a value is a whole chat: system or not, then the user, at last the assistant.

    column: the name of the value.
    """
    turns = check_messages(messages, column)
    first = 1 if turns[0]["role"] == "system" else 0
    if "assistant" not in {turn["role"] for turn in turns}:
        raise RowError(f"{column} has no message of the assistant, so there is nothing to learn")
    if turns[first]["role"] != "user":
        raise RowError(
            f"{column} begins with {turns[first]['role']!r}; the first message (after system) is the user's"
        )
    if turns[-1]["role"] != "assistant":
        raise RowError(f"{column} ends with {turns[-1]['role']!r}; the last message is the assistant's")


def check_messages(messages: object, column: str) -> Sequence[Mapping[str, Any]]:
    """Return a value as messages with roles and content; raise RowError for what is none.

    column: the name of the value.
    """
    if not isinstance(messages, list) or not messages:
        raise RowError(
            f'{column} is {_kind(messages)}, not a list of messages, [{{"role": ..., "content": ...}}, ...]'
        )
    for number, message in enumerate(messages, 1):
        _check_message(message, number, column)
    return messages


def says_nothing(message: Mapping[str, Any]) -> bool:
    """Return whether a message has neither text nor calls of tools."""
    return not (message.get("content") or "").strip() and not message.get("tool_calls")


def _check_message(message: object, number: int, column: str) -> None:
    where = f"message {number} of {column}"
    if not isinstance(message, dict):
        raise RowError(f"{where} is {_kind(message)}, not an object with role and content")
    if "role" not in message:
        raise RowError(f"{where} has no role (its keys: {', '.join(map(str, message)) or 'none'})")
    role = message["role"]
    if role not in ROLES:
        near = ALSO.get(str(role).lower()) or nearest(str(role), ROLES)
        hint = f"did you mean {near!r}? " if near else ""
        raise RowError(f"{where} has the role {shown(role)}; {hint}Known: {', '.join(ROLES)}")
    if role == "system" and number > 1:
        raise RowError(f"{where} is the system's; only the first can be")
    for key in WEIGHTS:
        if role == "assistant" and message.get(key) not in (None, 1):
            raise RowError(
                f"{where}: {key}={shown(message[key])} asks to learn it less or not at all, and answers are learnt "
                "alike; leave the key out, and to learn the last answer of a chat alone write data.loss_on: completion"
            )
    _check_content(message, role, where)


def _check_content(message: Mapping[str, Any], role: str, where: str) -> None:
    content, calls = message.get("content"), message.get("tool_calls")
    if calls is not None and (role != "assistant" or not isinstance(calls, list)):
        raise RowError(f"{where}: tool_calls is a list, of an assistant's message alone")
    if isinstance(content, list):
        raise RowError(f"{where}: content is a list of parts; only text is trained, so give one text")
    if not isinstance(content, str) and not (calls and content is None):
        raise RowError(f"{where}: content is {_kind(content)}, not text")


def _kind(value: object) -> str:
    return "missing" if value is None else "an empty list" if value == [] else shown(value)
