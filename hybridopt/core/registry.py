"""Parts by name: the file name is the registry, so a new part is one new file and a config can never name code."""

import re
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib import import_module
from typing import Any

from .contracts import Activations, Adapters, Backend, Launcher, PlacementBackend, Release, Scheme, TrainingTask
from .contracts.fulfilment import check_fulfils
from .errors import HybridOptError, check_choice, known, shown
from .part_files import PARTS, PLACES, modules, names

__all__ = [
    "KINDS",
    "PARTS",
    "PLACES",
    "every",
    "every_class",
    "find",
    "forget",
    "make",
    "names",
    "pack",
    "title",
    "unpack",
]

KINDS = (*PARTS, "policies", "activations")  # of plain data: what saved files and policies may name
CONTRACTS = {"schemes": Scheme, "adapters": Adapters, "launchers": Launcher, "releases": Release, "backends": Backend}
CONTRACTS |= {"tasks": TrainingTask, "placement_backends": PlacementBackend, "activations": Activations}
WORDS = {"policies": "policy", "schemes": "quantization"}  # for errors, where it is not the kind without its "s"
WORDS |= {"activations": "activations"}


def find(kind: str, name: str) -> type[Any]:
    """Return the class that the file of this name offers first; a hyphen in the name reads as an underscore.

    No other file of the kind is imported. Raises HybridOptError for unknown names, listing the known ones, and for a
    class that lacks something that the contract of its kind asks for.
    """
    name = name.replace("-", "_") if isinstance(name, str) else name
    check_choice("", WORDS.get(kind, kind[:-1]), name, names(kind))
    module = import_module(modules(kind)[name])
    cls: type[Any] = getattr(module, module.__all__[0])
    if kind in CONTRACTS:
        check_fulfils(cls, CONTRACTS[kind])
    return cls


@cache
def every(kind: str) -> tuple[Any, ...]:
    """Return one instance of every part of a kind, in the order of their names; all their files are imported."""
    return tuple(make(kind, name) for name in names(kind))


def every_class(kind: str) -> tuple[type[Any], ...]:
    """Return the class of every part of a kind, in the order of their names; all their files are imported."""
    return tuple(find(kind, name) for name in names(kind))


def forget() -> None:
    """Look for files anew when parts are next asked for."""
    modules.cache_clear()
    every.cache_clear()


def make(kind: str, value: object, **options: object) -> Any:
    """Return a part from its name and options, from its packed form, or as it is.

    Args:
        kind: one of PLACES.
        value: a name, what `pack` has returned, or an instance.
        options: of a part that is given by its name.
    """
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
    """Return an instance of the dataclass `cls`; HybridOptError, by the name that users write, for wrong options."""
    own = fields(cls)
    name = title(cls)
    for key in options:
        if key not in [f.name for f in own]:
            allowed = known(key, [f.name for f in own])
            raise HybridOptError(f"{name} has no option {key!r} (value {shown(options[key])}); {allowed}")
    needed = [f.name for f in own if f.default is MISSING and f.default_factory is MISSING and f.name not in options]
    if needed:
        raise HybridOptError(f"{name} needs {', '.join(needed)} (given: {options!r})")
    try:
        return cls(**options)
    except HybridOptError as error:
        option = re.match(r"\w*", error.text)
        its_own = option is not None and option[0] in {f.name for f in own}
        raise (error.of(name) if its_own else error) from None
    except TypeError as error:
        raise HybridOptError(f"{name}: {error} (options given: {options!r})") from error


def title(cls: type) -> str:
    """Return the name by which users write a part or policy; of one that is not of this package that of its class."""
    return (_place(cls, (*KINDS, "tasks")) or (None, cls.__name__))[1]


def pack(value: object) -> object:
    """Return a part as plain data; what is no part of this package becomes {"custom": name} and stays so."""
    if is_dataclass(value) and not isinstance(value, type):
        place = _place(type(value))
        if place is not None:
            return {"part": ".".join(place)} | {f.name: pack(getattr(value, f.name)) for f in fields(value)}
    elif isinstance(value, list | tuple):
        return [pack(v) for v in value]
    elif value is None or isinstance(value, bool | int | float | str):
        return value
    return {"custom": f"{type(value).__name__} {getattr(value, '__name__', '')}".strip()}


def unpack(data: object, kind: str | None = None) -> Any:
    """Return a part from plain data; only parts of this package, and of these only their own options."""
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


def _place(cls: type, kinds: Sequence[str] = KINDS) -> tuple[str, str] | None:
    """Return the kind and the name of a class by its module; None for what is of none of these kinds."""
    name = cls.__module__.rpartition(".")[2]
    return next(((kind, name) for kind in kinds if modules(kind).get(name) == cls.__module__), None)
