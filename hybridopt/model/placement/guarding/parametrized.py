"""Weights that torch's parametrizations take over: each is set to itself, which torch counts as a write."""

from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as registration
from torch.nn.utils.parametrize import ParametrizationList

from ..homes import home

__all__ = ["watch"]


@cache
def watch() -> None:
    """Tell weights that parametrizations take over, from now on, from those that somebody has written to."""
    registration.register_module_parameter_registration_hook(_registered)


def _registered(module: nn.Module, name: str, member: Any) -> None:
    if isinstance(module, ParametrizationList) and isinstance(member, Tensor):
        found = home(member)
        if found is not None:
            found.unchanged()
