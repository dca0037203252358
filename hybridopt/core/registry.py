"""Parts by name: the file name is the registry, so a new part is one new file and a config can never name code."""

import pkgutil
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from typing import Any

from .contracts import Backend, Release
from .contracts.fulfilment import check_fulfils
from .errors import HybridOptError, check_choice, known

__all__ = ["KINDS", "PARTS", "find", "names", "pack", "make", "unpack"]

PACKAGE = __package__.partition(".")[0]
PARTS = ("rules", "splits", "sources", "schedules", "codecs", "stores")
FOLDERS = {kind: f"parts.{kind}" for kind in PARTS}
FOLDERS["policies"] = "policy.methods"
KINDS = tuple(FOLDERS)  # of plain data: what saved files and policies may name
FOLDERS |= {"releases": "optimizer.releases", "backends": "execution.backends"}
CONTRACTS = {"releases": Release, "backends": Backend}


@cache
def names(kind: str) -> tuple[str, ...]:
    """The names of all parts of a kind: the files of its folder."""
    check_choice("find", "kind", kind, FOLDERS)
    folder = import_module(f"{PACKAGE}.{FOLDERS[kind]}")
    return tuple(sorted(m.name for m in pkgutil.iter_modules(folder.__path__) if not m.name.startswith("_")))


def find(kind: str, name: str) -> type[Any]:
    """The class that the file `kind/name.py` offers; a hyphen reads as an underscore."""
    name = name.replace("-", "_") if isinstance(name, str) else name
    check_choice("hybridopt", {"policies": "policy"}.get(kind, kind[:-1]), name, names(kind))
    module = import_module(f"{PACKAGE}.{FOLDERS[kind]}.{name}")
    cls: type[Any] = getattr(module, module.__all__[0])
    if kind in CONTRACTS:
        check_fulfils(cls, CONTRACTS[kind])
    return cls


def make(kind: str, value: object, **options: object) -> Any:
    """A part from its name, its packed form, or itself."""
    if isinstance(value, str):
        return build(find(kind, value), options)
    if isinstance(value, dict):
        value = unpack(value, kind)
    if isinstance(value, type) or not is_dataclass(value):
        raise HybridOptError(
            f"{kind[:-1]}={value!r} is no part; give a name or an instance. {known(value, names(kind))}"
        )
    return value


def build(cls: type, options: dict[str, Any]) -> Any:
    """The dataclass `cls` from options, with an error that names those it does not have."""
    allowed = [f.name for f in fields(cls)]
    for key in options:
        if key not in allowed:
            raise HybridOptError(
                f"{cls.__name__.lower()} has no option {key!r} (value {options[key]!r}); {known(key, allowed)}"
            )
    try:
        return cls(**options)
    except TypeError as error:
        raise HybridOptError(f"{cls.__name__}: {error} (options given: {options!r})") from error


def pack(value: object) -> object:
    """A part as plain data; what is no part of this package becomes {"custom": its name}, which cannot be unpacked."""
    if is_dataclass(value) and not isinstance(value, type):
        folder, _, name = type(value).__module__.removeprefix(f"{PACKAGE}.").rpartition(".")
        kind = next((kind for kind in KINDS if FOLDERS[kind] == folder), None)
        if type(value).__module__.startswith(f"{PACKAGE}.") and kind and name in names(kind):
            return {"part": f"{kind}.{name}"} | {f.name: pack(getattr(value, f.name)) for f in fields(value)}
    elif isinstance(value, list | tuple):
        return [pack(v) for v in value]
    elif value is None or isinstance(value, bool | int | float | str):
        return value
    return {"custom": f"{type(value).__name__} {getattr(value, '__name__', '')}".strip()}


def unpack(data: object, kind: str | None = None) -> Any:
    """A part from plain data: only parts of this package, only their own options."""
    if isinstance(data, list):
        return tuple(unpack(v) for v in data)
    if not isinstance(data, dict):
        return data
    if "custom" in data:
        raise HybridOptError(
            f"this was made with {data['custom']!r}, which is no part of hybridopt; pass it again in code"
        )
    where, _, name = str(data.get("part", "")).partition(".")
    if where not in KINDS or (kind is not None and where != kind):
        raise HybridOptError(f"part={data.get('part')!r} is no {kind or 'part'}; write it like 'rules.adamw'")
    return build(find(where, name), {k: unpack(v) for k, v in data.items() if k != "part"})
