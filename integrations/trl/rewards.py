"""Reward functions by their names."""

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from hybridopt.core.errors import HybridOptError

__all__ = ["check_name", "function_of"]

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def check_name(name: object) -> None:
    """Raise HybridOptError unless a name is written package.module:function; nothing is imported."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise HybridOptError(
            f"reward={name!r} is not allowed; name a function of an installed package: package.module:function", "grpo"
        )


def function_of(name: str) -> Callable[..., Any]:
    """Import and return a function; HybridOptError where the package or the function is not there."""
    module, _, function = name.partition(":")
    try:
        found = vars(import_module(module)).get(function)
    except ImportError as error:
        raise HybridOptError(f"grpo: reward={name!r} cannot be imported: {error}; install its package") from error
    if not callable(found):
        raise HybridOptError(f"grpo: reward={name!r}: {module} has no function {function!r}")
    return found
