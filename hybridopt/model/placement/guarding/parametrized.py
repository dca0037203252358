"""Weights that torch's parametrizations take over: each is set to itself, which torch counts as a write."""

from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as registration
from torch.nn.utils.parametrize import ParametrizationList

from ..homes import home

__all__ = ["watch"]


class _Watch:
    """Sees, once a model is placed, which weights become the originals of parametrizations."""

    def __init__(self) -> None:
        self._watching = False

    def begin(self) -> None:
        """Look from now on."""
        if not self._watching:
            registration.register_module_parameter_registration_hook(self._one)
            self._watching = True

    @staticmethod
    def _one(module: nn.Module, name: str, member: Any) -> None:
        if isinstance(module, ParametrizationList) and isinstance(member, Tensor):
            found = home(member)
            if found is not None:
                found.unchanged()


_watch = _Watch()


def watch() -> None:
    """Tell weights that parametrizations take over, from now on, from those that somebody has written to."""
    _watch.begin()
