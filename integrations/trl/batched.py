"""Plain texts and chats as tokens and labels, many at once; SFTTrainer makes the same of them one by one."""

from collections.abc import Callable
from typing import Any

from hybridopt.model.losses.linear_cross_entropy import IGNORED

__all__ = ["prepared", "with_tokens"]

ROWS, BYTES = 1000, 2**22  # that are prepared together at most, or memory would grow with the longest rows


def prepared(rows: Any) -> bool:
    """Return whether rows are tokens and labels already."""
    return {"input_ids", "labels"} <= set(rows.column_names)


def with_tokens(rows: Any, tokenizer: Any, assistant: bool) -> Any:
    """Return rows with `input_ids` and `labels`; as they are, where they are neither plain texts nor plain chats.

    Args:
        rows: a Dataset.
        tokenizer: of the model.
        assistant: whether only what the assistant says is learnt, of chats; otherwise everything.
    """
    names, told = set(rows.column_names), {"tokenizer": tokenizer}
    work: Callable[..., dict[str, Any]]
    if names == {"text"}:
        work = _texts
    elif names == {"messages"}:
        work, told = _chats, told | {"template": _template(tokenizer, assistant), "assistant": assistant}
    else:
        return rows
    each = max(1, min(ROWS, BYTES * len(rows) // max(1, rows.data.nbytes)))
    sizes = {"batch_size": each, "writer_batch_size": each}
    return rows.map(work, batched=True, remove_columns=rows.column_names, fn_kwargs=told, **sizes)


def _texts(rows: dict[str, list[str]], tokenizer: Any) -> dict[str, list[list[int]]]:
    end = tokenizer.eos_token
    texts = [text if text.endswith(end) else text + end for text in rows["text"]]
    made = tokenizer(text=texts)["input_ids"]
    return {"input_ids": made, "labels": made}


def _chats(rows: dict[str, list[Any]], tokenizer: Any, template: str | None, assistant: bool) -> dict[str, Any]:
    options = {"chat_template": template, "return_assistant_tokens_mask": assistant}
    made = tokenizer.apply_chat_template(rows["messages"], tokenize=True, return_dict=True, **options)
    tokens = made["input_ids"]
    if not assistant:
        return {"input_ids": tokens, "labels": tokens}
    pairs = zip(tokens, made["assistant_masks"], strict=True)
    labels = [[token if said else IGNORED for token, said in zip(ids, mask, strict=True)] for ids, mask in pairs]
    return {"input_ids": tokens, "labels": labels}


def _template(tokenizer: Any, assistant: bool) -> str | None:
    """Return the template that marks what the assistant says, where the tokenizer's own does not; None: its own."""
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if not assistant or has_generation_markers(tokenizer.chat_template):
        return None
    return get_training_chat_template(tokenizer)
