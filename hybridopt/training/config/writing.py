"""Write a run as run.yaml, each key with what it means."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING
from textwrap import wrap
from typing import Any

import yaml

from ...core.errors import HybridOptError
from .keys import Branch, Key, root
from .nodes import Node, plain
from .reading import MADE_WITH
from .run import AUTO, Run

__all__ = ["flow", "to_yaml"]

WIDTH = 118  # characters of a line with its comment
CHOSEN = (
    "method.options",
    "method.lora",
    "method.quantization",
    "method.release",
    "method.placement",
)  # by policy auto


def to_yaml(
    run: Run,
    comments: bool = True,
    notes: Mapping[str, Any] = {},
    remarks: Mapping[str, Sequence[str]] = {},
) -> str:
    """Return a run as YAML, which `read_run` reads as the same run; other readers of YAML 1.1 and 1.2 do, too.

    Args:
        run: to be written.
        comments: whether every key is followed by what it means.
        notes: what it was made with, plain data; `resolved` gives it back.
        remarks: more lines of comments, by the key that they are written above.

    Raises:
        HybridOptError: an option is no plain data.
    """
    lines = list(_notes({MADE_WITH: dict(notes)}, 0)) if notes else []
    lines += list(_lines(root(), run, run, comments, remarks))
    return "\n".join(lines) + "\n"


def _notes(data: Mapping[str, Any], depth: int) -> Iterator[str]:
    for key, value in data.items():
        start = f"{'  ' * depth}{flow(key, MADE_WITH)}:"
        if isinstance(value, Mapping) and value:
            yield start
            yield from _notes(value, depth + 1)
        else:
            yield f"{start} {flow(value, MADE_WITH)}"


def _lines(
    section: Branch, value: Any, run: Run, comments: bool, remarks: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Yield the lines of what stands beneath a section."""
    depth = section.name.count(".") + 1 if section.name else 0
    members = [m for m in section.members.values() if not _left_out(m, run)]
    values = {m.name: vars(value)[m.name.rpartition(".")[2]] for m in members}
    lines = {m.name: _line(m, values[m.name], depth) for m in members}
    edge = max((len(line) for line in lines.values() if len(line) < WIDTH // 3), default=0)
    for member in members:
        yield from (f"{'  ' * depth}# {remark}".rstrip() for remark in remarks.get(member.name, ()))
        yield from _commented(lines[member.name], member.meaning if comments else "", edge, depth)
        if isinstance(member, Branch) and values[member.name] is not None:
            yield from _lines(member, values[member.name], run, comments, remarks)


def _left_out(member: Key | Branch, run: Run) -> bool:
    """Return whether a key is as policy auto finds it, which then says it: null would mean that it may not."""
    return run.method.policy == AUTO and member.name in CHOSEN and vars(run.method)[_last(member)] == member.default


def _line(member: Key | Branch, value: Any, depth: int) -> str:
    start = f"{'  ' * depth}{_last(member)}:"
    return start if isinstance(member, Branch) and value is not None else f"{start} {flow(value, member.name)}"


def _commented(line: str, meaning: str, edge: int, depth: int) -> Iterator[str]:
    """Yield a line with its meaning behind it, or above it where there is no room."""
    beside = f"{line:{edge}}  # {meaning}"
    if not meaning:
        yield line
    elif len(beside) <= WIDTH:
        yield beside
    else:
        yield from (f"{'  ' * depth}# {part}" for part in wrap(meaning, WIDTH - 2 * depth - 2))
        yield line


def _last(member: Key | Branch) -> str:
    return member.name.rpartition(".")[2]


def flow(value: Any, key: str) -> str:
    """Return a value on one line."""
    _check(value, key)
    text = yaml.dump(value, Dumper=_Writer, default_flow_style=True, width=2**30, allow_unicode=True, sort_keys=False)
    return text.strip().removesuffix("...").rstrip()


def _check(value: Any, key: str) -> None:
    """Raise HybridOptError for what YAML has no word for."""
    if isinstance(value, Mapping):
        for name, child in value.items():
            _check(name, key)
            _check(child, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for child in value:
            _check(child, key)
    elif value is not None and value is not MISSING and type(value) not in (bool, int, float, str):
        raise HybridOptError(
            f"{key} has {value!r:.80}, which no file can say; give texts, numbers, lists and mappings"
        )


class _Writer(yaml.SafeDumper):
    """Writes texts in quotes wherever a reader could take them for something else."""


def _text(writer: yaml.SafeDumper, text: str) -> Any:
    safe = isinstance(plain(Node(text)), str) and text.isprintable()
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=None if safe else '"')


def _list(writer: yaml.SafeDumper, values: Sequence[Any]) -> Any:
    return writer.represent_list(list(values))


_Writer.add_representer(str, _text)
_Writer.add_representer(tuple, _list)
_Writer.ignore_aliases = lambda *_: True  # which are not read back
