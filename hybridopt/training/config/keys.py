"""All keys of run.yaml, from the dataclasses of a run: names, kinds, defaults, and what they mean."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from .kinds import Kind, OneOf, Short
from .run import AUTO, Run

__all__ = ["Key", "Branch", "every", "meanings", "root"]

SECTION = re.compile(r"^Args:\n(.*?)(?:\n\S|\Z)", re.MULTILINE | re.DOTALL)
ENTRY = re.compile(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)
NULL = "null"


@dataclass(frozen=True)
class Key:
    """A key with a value.

    Args:
        name: with those of its sections, such as "train.lr".
        kind: of its values.
        words: that are allowed besides: "null", "auto".
        default: MISSING where it has to be given.
        meaning: one sentence.
    """

    name: str
    kind: Kind
    words: tuple[str, ...]
    default: Any
    meaning: str

    @property
    def allowed(self) -> str:
        """Return all that is allowed, in words."""
        return " or ".join([self.kind.allowed, *self.words])


@dataclass(frozen=True)
class Branch:
    """A key with keys beneath it.

    Args:
        name: with those of its sections; "" for the whole.
        cls: dataclass that it is read into.
        short: the key that a value alone stands for; None: there has to be a mapping.
        optional: whether null is allowed.
        default: where it is not given.
        meaning: one sentence.
        members: keys and sections beneath, by their own names.
    """

    name: str
    cls: type
    short: str | None
    optional: bool
    default: Any
    meaning: str
    members: "dict[str, Key | Branch]"


@cache
def root() -> Branch:
    """Return the section of everything."""
    return Branch("", Run, None, False, MISSING, "", _members(Run, ""))


def every(section: Branch | None = None) -> Iterator[Key | Branch]:
    """Yield all keys and sections beneath a section, in order; beneath all by default."""
    for member in (section or root()).members.values():
        yield member
        if isinstance(member, Branch):
            yield from every(member)


def meanings(cls: type) -> dict[str, str]:
    """Return what the docstring of a dataclass says of its fields, in the words of YAML."""
    found = SECTION.search(inspect.getdoc(cls) or "")
    entries = ENTRY.findall(found[1]) if found else []
    return {name: re.sub(r"\bNone\b", NULL, " ".join(text.split())) for name, text in entries}


def _members(cls: type, above: str) -> "dict[str, Key | Branch]":
    hints, told = get_type_hints(cls, include_extras=True), meanings(cls)
    return {
        field.name: _member(f"{above}{field.name}", hints[field.name], _default(field), told.get(field.name, ""))
        for field in fields(cls)
    }


def _member(name: str, hint: Any, default: Any, meaning: str) -> Key | Branch:
    base, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    options = get_args(base) or (base,)
    section = next((option for option in options if is_dataclass(option)), None)
    if isinstance(section, type):
        short = next((extra.key for extra in extras if isinstance(extra, Short)), None)
        return Branch(name, section, short, NoneType in options, default, meaning, _members(section, f"{name}."))
    (kind,) = extras
    words = [AUTO] if default == AUTO and not isinstance(kind, OneOf) else []
    return Key(name, kind, (*words, *([NULL] if NoneType in options else [])), default, meaning)


def _default(field: Field) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default
