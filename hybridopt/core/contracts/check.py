"""Whether what was given for an axis is a part of its contract."""

from abc import ABCMeta
from collections.abc import Callable
from functools import lru_cache

from ..errors import HybridOptError
from .fulfilment import lacking

__all__ = ["check_part", "missing"]

_lacking: Callable[[type, type], list[str]] = lru_cache(maxsize=1024)(lacking)


def missing(value: object, contract: type) -> list[str]:
    """Return what the Protocol `contract` declares and `value` has neither in its class nor of its own."""
    return [name for name in _lacking(type(value), contract) if name not in getattr(value, "__dict__", ())]


def check_part(owner: str, axis: str, value: object, contract: ABCMeta) -> None:
    """Raise HybridOptError unless `value` has all that a contract declares, naming what is missing.

    Args:
        owner: what it was given to.
        axis: as what.
        value: an instance of a class that subclasses the contract, or has everything of its own.
        contract: a Protocol of `core.contracts`.
    """
    if isinstance(value, type):
        raise HybridOptError(f"{owner}: {axis}={value!r} is not allowed; give an instance of this class")
    if isinstance(value, str):
        raise HybridOptError(
            f"{owner}: {axis}={value!r} is not allowed: a name is not enough here; give an instance, such as one of "
            "hybridopt.parts"
        )
    if lost := missing(value, contract):
        raise HybridOptError(
            f"{owner}: {axis}={value!r} is not allowed: it lacks {', '.join(lost)}; give an instance of a class that "
            f"subclasses hybridopt.core.contracts.{contract.__name__}, which has a default for everything but "
            f"{', '.join(sorted(contract.__abstractmethods__))}"
        )
