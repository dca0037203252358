"""Attributes replaced for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["instead"]


@contextmanager
def instead(owner: object, name: str, value: object) -> Iterator[None]:
    """Replace an attribute within the `with`.

    Args:
        owner: an object or module that has it.
        name: of the attribute.
        value: what it is meanwhile.
    """
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
