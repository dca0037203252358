"""Whether a class has everything that its contract asks for."""

import inspect
from dataclasses import fields, is_dataclass

from ..errors import HybridOptError

__all__ = ["check_fulfils", "lacking"]


def check_fulfils(cls: type, contract: type) -> None:
    """Raise HybridOptError, naming the class and what it lacks, unless it has all that the Protocol declares."""
    if missing := lacking(cls, contract):
        raise HybridOptError(
            f"{cls.__module__}.{cls.__qualname__} is no {contract.__name__}: it lacks {', '.join(missing)}; see "
            f"{contract.__module__}.{contract.__name__} for what is asked, and subclass that for its defaults"
        )


def lacking(cls: type, contract: type) -> list[str]:
    """Return what the Protocol `contract` declares and `cls` does not have, in the order of declaration."""
    own = {f.name for f in fields(cls)} if is_dataclass(cls) else set()
    return [name for name in _declared(contract) if name not in own and _lacks(cls, contract, name)]


def _declared(contract: type) -> list[str]:
    own = [name for name, value in vars(contract).items() if inspect.isfunction(value) or isinstance(value, property)]
    return [name for name in (*inspect.get_annotations(contract), *own) if not name.startswith("_")]


def _lacks(cls: type, contract: type, name: str) -> bool:
    value = inspect.getattr_static(cls, name, None)
    asked = inspect.getattr_static(contract, name, None)
    if inspect.isfunction(asked) and not callable(getattr(cls, name, None)):
        return True
    return value is None and name not in dir(cls) or bool(getattr(value, "__isabstractmethod__", False))
