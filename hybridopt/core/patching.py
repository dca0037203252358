"""Attributes replaced for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["instead"]


@contextmanager
def instead(owner: object, name: str, value: object, new: bool = False) -> Iterator[None]:
    """Replace an attribute of a Python module, or of an object, within the `with`.

    Of an object what is set is its own, past `__setattr__`; after that its class's counts again, if it had none.

    Args:
        owner: that has it.
        name: of the attribute.
        value: what it is meanwhile.
        new: whether the owner may have no such attribute. Otherwise that is an AttributeError.
    """
    own = vars(owner)
    if not new:
        getattr(owner, name)
    before = {name: own[name]} if name in own else {}
    own[name] = value
    try:
        yield
    finally:
        own.pop(name, None)
        own.update(before)
