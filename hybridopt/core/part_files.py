"""Where the files of parts lie, and their names, without importing any of them."""

import pkgutil
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import takewhile

from .errors import HybridOptError, check_choice

__all__ = ["PARTS", "PLACES", "modules", "names"]

PACKAGE = __package__.partition(".")[0]
PARTS = ("rules", "splits", "sources", "schedules", "gaps", "codecs", "stores")
# Where the files of a kind lie: `*` is any module or package, and the last one is the part's name.
PLACES = {kind: (f"{PACKAGE}.parts.{kind}.*",) for kind in PARTS} | {
    "policies": (f"{PACKAGE}.policy.methods.*",),
    "schemes": (f"{PACKAGE}.model.quantization.schemes.*", f"{PACKAGE}.integrations.*.schemes.*"),
    "adapters": (f"{PACKAGE}.integrations.*.adapters",),
    "launchers": (f"{PACKAGE}.integrations.*.launcher",),
    "releases": (f"{PACKAGE}.optimizer.releases.*",),
    "backends": (f"{PACKAGE}.execution.backends.*",),
    "placement_backends": (f"{PACKAGE}.model.placement.backends.*",),
    "activations": (f"{PACKAGE}.model.activations.schemes.*",),
    "tasks": (f"{PACKAGE}.integrations.*.tasks.*",),
}


def names(kind: str) -> tuple[str, ...]:
    """Return the names of all parts of a kind, sorted: those of their files."""
    check_choice("find", "kind", kind, PLACES)
    return tuple(modules(kind))


@cache
def modules(kind: str) -> dict[str, str]:
    """Return the full module name of every part of a kind, by the part's name."""
    found: dict[str, str] = {}
    for place in PLACES[kind]:
        segments = place.split(".")
        fixed = list(takewhile(lambda segment: segment != "*", segments))
        spec = find_spec(".".join(fixed))
        folders = list(spec.submodule_search_locations or ()) if spec is not None else []
        for name, module in _below(folders, fixed, segments[len(fixed) :]):
            if name in found:
                raise HybridOptError(f"{kind} {name!r} is there twice: {found[name]} and {module}; rename one of them")
            found[name] = module
    return dict(sorted(found.items()))


def _below(folders: Sequence[str], above: list[str], wanted: list[str], name: str = "") -> Iterator[tuple[str, str]]:
    """Find the modules in `folders`, which are those of the package `above`, that `wanted` stands for; import none."""
    for module in pkgutil.iter_modules(folders):
        if module.name.startswith("_") or wanted[0] not in ("*", module.name):
            continue
        own = module.name if wanted[0] == "*" else name
        path = [*above, module.name]
        if len(wanted) == 1:
            yield own, ".".join(path)
        elif module.ispkg:
            yield from _below([f"{folder}/{module.name}" for folder in folders], path, wanted[1:], own)
