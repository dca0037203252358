"""The tokenizer of a run: with padding, and with a template where chats are learnt."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...core.errors import HybridOptError
from ...core.files.paths import path_of
from ..config.run import AUTO, Data
from .examples import Examples

__all__ = ["check_chats", "padding_told", "tokenizer_for"]

LONGEST = 300  # characters of another library's message
WITH_TEXT = (  # the cure where a message has calls of tools alone
    'write "content": "" beside tool_calls in place of null, or --set data.template=chat.jinja, one that takes null'
)
PADS = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]", "<|endoftext|>", "<unk>", "[UNK]")  # by preference


def tokenizer_for(model: str, data: Data, needs_template: bool, needs_end: bool = True):
    """Return the tokenizer of a model, ready for training.

    It is read from this machine where it is there, and from the hub otherwise; no code of the model is run. A
    tokenizer without padding takes a special token of its own for it, one that no text holds, or else its end of
    text: trainers mask padding by its place, so that the end is learnt all the same.

    Args:
        model: a folder, or an id on the hub.
        data: what the run says about the template.
        needs_template: whether examples are messages.
        needs_end: whether an end of text is put after examples, as all tasks do but classification.

    Raises:
        HybridOptError: there is no tokenizer; it has no end, nor padding, or no template where one is needed; or the
            template's file cannot be read or is no template.
    """
    tokenizer = _loaded(model)
    if needs_end and tokenizer.eos_token is None:
        cure = 'set "eos_token" in its tokenizer_config.json'
        raise HybridOptError(f"model={model!r}: the tokenizer has no end of text (eos_token); {cure}")
    _pad(tokenizer, model)
    if data.template != AUTO:
        tokenizer.chat_template = _template(data.template)
    if needs_template and not tokenizer.chat_template:
        raise HybridOptError(
            f"model={model!r}: the tokenizer has no chat template, which examples of messages need; "
            "--set data.template=chat.jinja, a file of your own, or take the model's chat version (-Instruct, -it)"
        )
    return tokenizer


def padding_told(tokenizer: Any) -> tuple[str, ...]:
    """Return what people should know of a tokenizer's padding, as lines."""
    if tokenizer.pad_token != tokenizer.eos_token:
        return ()
    return (f"padding is the end of text ({tokenizer.eos_token}); it is masked by its place, and the end is learnt",)


def check_chats(tokenizer: Any, examples: Examples) -> None:
    """Raise HybridOptError, by file and line, for a chat that the template of a tokenizer does not write.

    One example of every order of roles is written, as templates refuse chats for that.

    Args:
        tokenizer: with a template.
        examples: of messages; others need none.
    """
    for where, row in examples.chats:
        for chat, settings in _written(row):
            _check_chat(tokenizer, chat, where, settings)


def _written(row: Mapping[str, Any]) -> list[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Return the chats that trainers write of a row, and how."""
    if "messages" in row:
        return [(row["messages"], {"tools": row["tools"]} if row.get("tools") else {})]
    prompt = row.get("prompt") or []
    answers = [prompt + row[name] for name in ("completion", "chosen", "rejected") if name in row]
    return [*([(prompt, {"add_generation_prompt": True})] if prompt else []), *((answer, {}) for answer in answers)]


def _check_chat(tokenizer: Any, chat: list[dict[str, Any]], where: str, settings: Mapping[str, Any]) -> None:
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False, **settings)
    except Exception as error:  # of jinja2, or raised by the template itself
        why = " ".join(str(error).split())[:LONGEST]
        roles = ", ".join(turn["role"] for turn in chat)
        cure = "" if _with_text(tokenizer, chat, settings) is None else f"; {WITH_TEXT}"
        raise HybridOptError(f"{where}: the chat template cannot write this chat ({roles}): {why}{cure}") from error
    full = _with_text(tokenizer, chat, settings)
    if full is not None and text.count("None") > full.count("None"):
        raise HybridOptError(f"{where}: the chat template writes 'None' for a message without content; {WITH_TEXT}")
    if any(turn.get("tool_calls") for turn in chat) and text == _without_calls(tokenizer, chat, settings):
        raise HybridOptError(
            f"{where}: the chat template leaves out tool_calls; --set data.template=chat.jinja, one that writes them, "
            "or write them into the content"
        )
    last = (chat[-1].get("content") or "").strip()
    if last and "<think>" not in last and last not in text:
        raise HybridOptError(f"{where}: the chat template leaves out the last message, {last[:80]!r}")


def _with_text(tokenizer: Any, chat: list[dict[str, Any]], settings: Mapping[str, Any]) -> str | None:
    """Return a chat as it is written with "" for content that is null or missing; None where none is, or it cannot."""
    turns = [turn | {"content": ""} if turn.get("content") is None else turn for turn in chat]
    return None if turns == chat else _text(tokenizer, turns, settings)


def _without_calls(tokenizer: Any, chat: list[dict[str, Any]], settings: Mapping[str, Any]) -> str | None:
    """Return a chat as it is written without calls of tools; None where it cannot be."""
    turns = [{name: value for name, value in turn.items() if name != "tool_calls"} for turn in chat]
    return _text(tokenizer, turns, settings)


def _text(tokenizer: Any, turns: list[dict[str, Any]], settings: Mapping[str, Any]) -> str | None:
    with suppress(Exception):  # as in `_check_chat`
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, **settings)
        return text
    return None


def _loaded(model: str):
    """Return a tokenizer, from this machine first."""
    from transformers import AutoTokenizer

    reasons: list[Exception] = []
    for local in [True] if Path(model).is_dir() else [True, False]:
        try:
            return AutoTokenizer.from_pretrained(model, local_files_only=local, trust_remote_code=False)
        except Exception as error:  # transformers, tokenizers and the hub raise many types
            reasons.append(error)
    raise HybridOptError(_missing(model, reasons[-1])) from reasons[-1]


def _missing(model: str, error: Exception) -> str:
    why = " ".join(str(error).split())[:LONGEST]
    if Path(model).is_dir():
        cure = "copy tokenizer.json and tokenizer_config.json of the model it came from into it"
        return f"model={model!r}: the folder has no tokenizer that can be read; {cure} ({why})"
    cure = "see that the name is right and the network is there, log in where the model asks for it (hf auth login)"
    return f"model={model!r}: there is no such folder, and its tokenizer is not to be had from the hub; {cure} ({why})"


def _pad(tokenizer: Any, model: str) -> None:
    """Give a tokenizer a token for padding, if it has none."""
    if tokenizer.pad_token is not None:
        return
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    own = next((token for token in PADS if token in special and token != tokenizer.eos_token), tokenizer.eos_token)
    if own is None:
        cure = 'set "pad_token" in its tokenizer_config.json to a token that no text holds'
        raise HybridOptError(f"model={model!r}: the tokenizer has no padding (pad_token), nor an end of text; {cure}")
    tokenizer.pad_token = own


def _template(name: str) -> str:
    """Return the template that a file holds; HybridOptError for one that cannot be read or is none."""
    from jinja2 import TemplateSyntaxError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    path = path_of(name, "data.template", "a .jinja file").expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise HybridOptError(f"data.template: {name} is not UTF-8: {error}") from error
    except OSError as error:
        raise HybridOptError(f"data.template: {name} cannot be read: {error.strerror}") from error
    try:
        _compile_jinja_template(text)
    except TemplateSyntaxError as error:
        raise HybridOptError(f"data.template: {name}:{error.lineno}: {error.message}") from error
    if "messages" not in text:
        raise HybridOptError(
            f"data.template: {name} writes no messages (it names no `messages`), so it is no template"
        )
    return text
