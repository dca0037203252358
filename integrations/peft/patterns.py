"""Patterns for names of modules: which are certain to be matched at once, and which names they stand for."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["ALL", "BY_NAME", "CHOSEN", "NONE", "REFUSED", "plain", "resolved", "simple"]

CHOSEN = ("target_modules", "exclude_modules", "layers_pattern")  # by which PEFT finds modules
BY_NAME = ("rank_pattern", "alpha_pattern")  # numbers by the names of modules
ALL, NONE = "all-linear", "dummy-target-modules"  # no patterns

PLAIN = re.compile(r"\^?(?:[\w:/ -]|\\?[.-])*\$?", re.ASCII)
# Names, any digits, any text, one of some names: nothing that is repeated holds anything that is.
TOKEN = re.compile(r"(?P<many>\.\*\??|\\d\+|\[0-9\]\+)|(?P<some>\((?:\?:)?[\w.|-]+\))|\\[.d-]|[\w.:/ -]", re.ASCII)
LONGEST, MANY, SOME = 1000, 3, 4
REFUSED = (
    "a pattern that a file gives must be made of names, '.*', '\\d+' and choices such as '(q|v)_proj', as others may "
    "be matched for ever; if you trust the file, load it by peft.PeftModel.from_pretrained, wrap it and save it again"
)


def plain(text: str) -> bool:
    """Return whether a text is the name of a module, or the end of one; a dot may be escaped."""
    return PLAIN.fullmatch(text) is not None


def simple(text: str) -> bool:
    """Return whether a text is a name, or a pattern that is matched at once on any name."""
    if len(text) > LONGEST:
        return False
    rest, many, some = text.removeprefix("^").removesuffix("$"), 0, 0
    while rest:
        token = TOKEN.match(rest)
        if token is None:
            return False
        many, some = many + (token["many"] is not None), some + (token["some"] is not None)
        rest = rest[token.end() :]
    return many <= MANY and some <= SOME


def resolved(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the values by whole names: what PEFT's `get_pattern_key` finds for each of `names`.

    Args:
        values: by pattern; the first that fits counts.
        names: of modules.
    """
    found = {name: _first(values, name) for name in names}
    return {f"^{re.escape(name)}": values[key] for name, key in found.items() if key is not None}


def _first(patterns: Iterable[str], name: str) -> str | None:
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", name)), None)
