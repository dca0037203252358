"""Adapters that are put on a placed model later: they belong on the device, and merge into weights that may change."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

from ....core.contracts import PlacedUnit
from ....core.registry import every
from .copies import Overridden

__all__ = ["Newcomers", "made", "moved_"]


class _Made:
    """Sees what is put into modules, anywhere, since the first model was placed."""

    def __init__(self) -> None:
        self.count = 0
        self.holders: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Newcomers]] = weakref.WeakKeyDictionary()
        self._counting = False

    def begin(self) -> None:
        """Look from now on."""
        if not self._counting:
            registration.register_module_module_registration_hook(self._one)
            registration.register_module_parameter_registration_hook(self._one)
            self._counting = True

    def _one(self, module: nn.Module, name: str, member: Any) -> None:
        if isinstance(module, nn.ModuleList):  # transformers makes one in every forward pass
            return
        self.count += 1
        if isinstance(member, nn.Module) and _writers(member):
            for each in member.modules():
                unit = self.holders[each]() if each in self.holders else None
                if unit is not None:
                    unit.guard(member)


_made = _Made()


def made() -> int:
    """Return how much was put into modules, anywhere, since the first model was placed."""
    return _made.count


class Newcomers:
    """Looks after what is put into a unit.

    Args:
        unit: whose own tensors are left alone.
        device: that computes.
        merge: is called when a layer of adapters is asked to change the weights beneath it, with the layer, the method
            that does so, and its arguments.
    """

    def __init__(self, unit: PlacedUnit, device: torch.device, merge: Callable[..., Any]):
        _made.begin()
        self._unit, self._device, self._merge = unit, device, merge
        self._seen = -1
        self._guards: list[Overridden] = []
        own = {id(piece.tensor) for piece in unit.pieces}
        self._holders = [m for m in unit.module.modules() if any(id(p) in own for p in m._parameters.values())]
        _made.holders.update(dict.fromkeys(self._holders, weakref.ref(self)))
        for module in unit.module.modules():
            self.guard(module)

    def settle(self) -> None:
        """Bring what is new since the last time to the device; at once where there is nothing."""
        if self._seen != _made.count:
            self._seen = _made.count
            kept = {id(x) for piece in self._unit.pieces for x in (piece.tensor, *piece.also)}
            moved_((x for x in _held(self._unit.module) if id(x) not in kept), self._device)

    def guard(self, layer: nn.Module) -> None:
        """Be asked before a layer of adapters changes weights."""
        for name in _writers(layer):
            if name not in vars(layer):
                self._guards.append(Overridden(layer, name, partial(self._merge, layer)))

    def leave(self) -> None:
        """Look after nothing any more."""
        for each in self._guards:
            each.remove()
        for module in self._holders:
            _made.holders.pop(module, None)
        self._guards = []


def moved_(tensors: Iterable[Tensor], device: torch.device) -> None:
    """Bring tensors to a device, each staying the same object."""
    for x in tensors:
        if x.device != device and not x.is_meta:
            x.data = x.data.to(device)
            if x.grad is not None:
                x.grad.data = x.grad.data.to(device)


def _writers(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the methods of a layer of adapters that write into the weights beneath it."""
    writers = next((library.writers for library in every("adapters") if library.adapts(module)), ())
    return tuple(name for name in writers if any(name in vars(kind) for kind in type(module).__mro__))


def _held(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
