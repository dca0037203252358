"""Packages that import what they offer when it is asked for, as importing torch takes seconds."""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec

__all__ = ["offered"]


def offered(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return a package's `__getattr__` (PEP 562): it imports a name's module, or a part of the package, when asked.

    Args:
        package: the package's `__name__`.
        homes: by the names that it offers, the modules in it that have them.
    """

    def get(name: str) -> object:
        if name in homes:
            return vars(import_module(f"{package}.{homes[name]}"))[name]
        if name.startswith("_") or find_spec(f"{package}.{name}") is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return import_module(f"{package}.{name}")

    return get
