"""Turns of chats, as TRL's trainers read them."""

from collections.abc import Mapping
from typing import Any

__all__ = ["is_chat", "last_answers", "marks_turns"]


def is_chat(row: Mapping[str, Any]) -> bool:
    """Return whether an example is made of messages."""
    from trl import is_conversational

    return is_conversational(row)


def marks_turns(tokenizer: Any) -> bool:
    """Return whether it can be told which tokens the assistant has said: by the template, or by one that TRL knows."""
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    template = tokenizer.chat_template
    if not template:
        return False
    if has_generation_markers(template):
        return True
    try:
        return get_training_chat_template(tokenizer) is not None
    except ValueError:  # none of the templates that TRL knows
        return False


def last_answers(rows: Any) -> Any:
    """Return chats as prompt, all but the last message, and completion, which is that one."""

    def split(row: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}

    return rows.map(split, remove_columns=["messages"])
