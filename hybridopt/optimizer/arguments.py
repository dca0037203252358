"""What an optimizer is given, checked before anything is made of it."""

from typing import Any

from torch import nn

from ..core.errors import HybridOptError, check_choice
from ..core.registry import names
from .gradients.reductions import NONFINITE

__all__ = ["check_options"]


def check_options(params: Any, nonfinite: object, release: object, compile: object) -> None:
    """Raise HybridOptError for arguments of a HybridOptimizer that it does not take.

    Args:
        params: what it is to train.
        nonfinite: what gradients that are not finite do.
        release: when gradients are used.
        compile: whether updates are compiled.
    """
    check_choice("HybridOptimizer", "nonfinite", nonfinite, NONFINITE)
    check_choice("HybridOptimizer", "release", release, names("releases"))
    if not isinstance(compile, bool) and compile != "auto":
        raise HybridOptError(f"compile={compile!r} is not allowed; give True, False or 'auto'", "HybridOptimizer")
    if isinstance(params, nn.Module):
        raise HybridOptError(f"params={type(params).__name__} is a module; give its named_parameters(), or wrap it")
