"""Hooks that fetch a unit before its forward and before its backward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from ...core.contracts import PlacedUnit

__all__ = ["attach"]

Need = Callable[[PlacedUnit], None]


def attach(unit: PlacedUnit, need: Need) -> list[RemovableHandle]:
    """Call `need(unit)` before the module of a unit runs forward or backward; return what removes the hooks.

    The backward pass of a unit begins when the gradient of one of its outputs is there: before anything of it is
    computed again, and before operations that keep weights to themselves read them (bitsandbytes' do).
    """
    module = unit.module
    before = module.register_forward_pre_hook(_Before(unit, need), prepend=True)
    return [before, module.register_forward_hook(_After(unit, need))]


class _Hook:
    """A hook of one model; copies and pickles of that do nothing, as their weights are ordinary tensors."""

    def __init__(self, unit: PlacedUnit, need: Need):
        self.unit, self.need = unit, need

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        return _Idle, ()


class _Before(_Hook):
    def __call__(self, module: nn.Module, args: Any) -> None:
        self.need(self.unit)


class _After(_Hook):
    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        for x in pytree.tree_leaves(output):
            if isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled():
                x.register_hook(self._gradient)

    def _gradient(self, gradient: Tensor) -> None:
        self.need(self.unit)


class _Idle:
    def __call__(self, module: nn.Module, args: Any, output: Any = None) -> None:
        """Do nothing."""
