"""Hooks that fetch a unit before its forward and before its backward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ....core.contracts import PlacedUnit
from ....core.errors import HybridOptError
from ....core.numerics.compiling import not_inlined
from ..guarding.copies import Copied
from .outputs import tensors_in

__all__ = ["attach", "notice_end"]

Need = Callable[[PlacedUnit], None]


def attach(unit: PlacedUnit, need: Need, again: bool = True, visit: Need | None = None) -> list[RemovableHandle]:
    """Let a unit be fetched before its module runs forward or backward; return what removes the hooks.

    The backward pass of a unit begins when the gradient of one of its outputs is there: before anything of it is
    computed again, and before operations that keep weights to themselves read them (bitsandbytes' do). The modules
    that hold the weights are looked after, too: others may call them by themselves, and gradients may come to them
    past the outputs of the layer, as those of the losses of routers do.

    Args:
        unit: of a model.
        need: fetches it.
        again: may gradients be differentiated again? Not where operations keep memory that is empty by then.
        visit: fetches it before its module is called as a whole; None: `need`.
    """
    holders = {id(p) for p in (piece.tensor for piece in unit.pieces)}
    inner = [m for m in unit.module.modules() if m is not unit.module and _holds(m, holders)]
    handles = [unit.module.register_forward_pre_hook(_Before(unit, visit or need), prepend=True)]
    handles += [each.register_forward_pre_hook(_Within(unit, need)) for each in inner]
    after = _After(unit, need, again)
    return handles + [each.register_forward_hook(after) for each in (unit.module, *inner)]


def notice_end(unit: PlacedUnit, done: Need) -> RemovableHandle:
    """Call `done(unit)` when the module of a unit has run forward, or failed; return what removes the hook."""
    return unit.module.register_forward_hook(_End(unit, done), always_call=True)


def _holds(module: nn.Module, tensors: set[int]) -> bool:
    return any(id(p) in tensors for p in module._parameters.values())


class _Hook(Copied):
    def __init__(self, unit: PlacedUnit, need: Need):
        super().__init__(unit.pieces[0].tensor)
        self.unit, self.need = unit, need


class _Before(_Hook):
    """Fetches the unit; compiled code is left for that."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        _outside(self.need, self.unit)


class _Within(_Hook):
    """Fetches the unit for a module of it; where it is compiled with the unit, that has fetched it."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        if not torch.compiler.is_compiling():
            self.need(self.unit)


class _End(_Hook):
    """Says that a forward pass through the unit is over."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():
            self.need(self.unit)


class _After(_Hook):
    """Waits for gradients of what the unit, or a module of it, returns."""

    def __init__(self, unit: PlacedUnit, need: Need, again: bool):
        super().__init__(unit, need)
        self._again = again

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if torch.is_grad_enabled() and (module is self.unit.module or not torch.compiler.is_compiling()):
            _outside(self._await, output)

    def _await(self, output: Any) -> None:
        for x in tensors_in(output):
            if x.requires_grad:
                x.register_hook(self._gradient)

    def _gradient(self, gradient: Tensor) -> None:
        if torch.is_grad_enabled() and not self._again:  # create_graph=True
            raise HybridOptError(
                f"gradients of gradients (create_graph=True) go through {self.unit.name!r} a second time, when its "
                "weights are not on the device any more; leave placement out for that",
                "placement",
            )
        self.need(self.unit)


@not_inlined
def _outside(call: Callable[[Any], None], argument: Any) -> None:
    call(argument)
