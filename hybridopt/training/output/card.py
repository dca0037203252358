"""README.md of a trained model: what it is, what it was made of, how it is loaded."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...core.errors import HybridOptError
from ...core.sizes import gib
from .base_name import hub_name
from .loading import Held, loading_lines

__all__ = ["KEYS", "MARK", "card_text", "check_card"]

MARK = "<!-- Written by hybridopt. Take this line out, and the file stays as you leave it. -->"
KEYS = (
    "name",
    "base_model",
    "revision",
    "task",
    "datasets",
    "data",
    "method",
    "train",
    "results",
    "memory",
    "versions",
)
PIPELINES = {"classify": "text-classification", "reward": "text-classification"}
BYTES = "bytes"


def check_card(card: Mapping[str, Any]) -> None:
    """Raise HybridOptError for an entry that no card has."""
    if unknown := sorted(set(card) - set(KEYS)):
        raise HybridOptError(f"the card has no entry {unknown[0]!r}; it has {', '.join(KEYS)}")


def card_text(card: Mapping[str, Any], held: Held) -> str:
    """Return the text of README.md, with the metadata that the hub reads.

    What is not known is left out, and so are the places of files on this machine.

    Args:
        card: see `folder.save`.
        held: what was saved.
    """
    name = str(card.get("name") or "A trained model")
    base = hub_name(card.get("base_model"))
    kind = f"{held.settings.get('peft_type', '')} adapters".strip() if held.adapters else "A whole model"
    of = f"`{base}`" if base else f"a model of class `{held.architecture}`"
    parts = [
        ["---", _metadata(card, base, held), "---", MARK, f"# {name}"],
        [f"{kind}, trained by {_method(card)} on {of}" + (f" for the task `{card['task']}`." if _task(card) else ".")],
        _section("Loading", loading_lines(held, base)),
        _section("Data", _data(card.get("data") or ())),
        _section("Training", _rows(card, "method") + _rows(card, "train")),
        _section("Results", _rows(card, "results")),
        _section("Memory", _memory(card.get("memory") or {})),
        _section("Versions", _rows(card, "versions")),
        [
            "What the model says was not judged by anybody: losses and metrics above are all that was measured. "
            "The terms of the base model and of the data go on to hold."
        ],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _task(card: Mapping[str, Any]) -> str | None:
    return card.get("task") or None


def _metadata(card: Mapping[str, Any], base: str | None, held: Held) -> str:
    from huggingface_hub import ModelCardData

    given: dict[str, Any] = {"library_name": "peft" if held.adapters else "transformers"}
    if base:
        given |= {"base_model": base, "base_model_relation": "adapter" if held.adapters else "finetune"}
    task = _task(card)
    given["pipeline_tag"] = PIPELINES.get(str(task), "text-generation")
    given["tags"] = ["hybridopt", *([str(task)] if task else [])]
    if datasets := list(card.get("datasets") or ()):
        given["datasets"] = datasets
    return str(ModelCardData(**given).to_yaml()).strip()


def _method(card: Mapping[str, Any]) -> str:
    method = card.get("method") or {}
    words = [f"`{method['policy']}`" if method.get("policy") else "hybridopt"]
    if method.get("quantization"):
        words.append(f"with weights in {method['quantization']},")
    return " ".join(words)


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}", "", *lines] if lines else []


def _data(files: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = [
        f"| {_cell(Path(str(each.get('path', '?'))).name)} | {each.get('rows', '')} | `{each.get('sha256', '')}` |"
        for each in files
    ]
    return ["| file | rows | SHA-256 |", "|---|---|---|", *rows] if rows else []


def _rows(card: Mapping[str, Any], key: str) -> list[str]:
    """Return a line for each value of a part of the card; nested ones as words."""
    found = card.get(key) or {}
    return [f"- {name}: {_words(value)}" for name, value in found.items() if value is not None]


def _memory(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in found.items():
        if value not in (None, 0):
            told = gib(value) if name.endswith(BYTES) else _words(value)
            lines.append(f"- {name.removesuffix(BYTES).replace('_', ' ').strip()}: {told}")
    if str(found.get("device", "")).startswith("cpu"):
        lines.append("- On a CPU the resident set of the process is measured, with Python and its libraries.")
    return lines


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(each)}" for name, each in value.items() if each is not None)
    if isinstance(value, str):
        return value
    if isinstance(value, Iterable):
        return ", ".join(map(_words, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
