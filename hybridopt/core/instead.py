"""Attributes of modules replaced for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

__all__ = ["instead"]


@contextmanager
def instead(module: ModuleType, name: str, value: object) -> Iterator[None]:
    """Replace an attribute of a module within the `with`.

    Args:
        module: that has it.
        name: of the attribute.
        value: what it is meanwhile.
    """
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
