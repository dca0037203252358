"""Models whose layers rest elsewhere, while they do, and the end of it."""

import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...core.contracts import PlacedUnit, Traffic
from ...core.errors import HybridOptError, HybridOptWarning
from ..adapters import bare
from .guarding.added_adapters import Newcomers, made
from .guarding.model_calls import Calls, NoReplicas
from .guarding.moving import guard
from .guarding.parametrized import watch
from .guarding.readers import for_readers
from .guarding.weight_places import WeightPlaces
from .homes import bring_home, forget
from .placement import Placement
from .streaming.hooks import attach, notice_end
from .streaming.rows import RowLookup, looked_up
from .streaming.streamer import Streamer

__all__ = ["Placed", "placed", "unplace", "up_to_date"]

# Hooks of the model alone keep its placement: layers that know their model would keep both for ever otherwise.
_PLACED: "weakref.WeakKeyDictionary[nn.Module, weakref.ref[Placed]]" = weakref.WeakKeyDictionary()


class Placed:
    """The placement of one model, while it lasts.

    Args:
        model: of which layers rest elsewhere from now on.
        placement: as it was asked for, with nothing left to "auto".
        device: that computes.
        streamer: fetches the units.
    """

    def __init__(self, model: nn.Module, placement: Placement, device: torch.device, streamer: Streamer):
        self.placement, self.device, self.streamer = placement, torch.empty(0, device=device).device, streamer
        self._model = weakref.ref(bare(model))
        again = streamer.backend.keeps_memory
        self._hooks = {
            unit: [*attach(unit, self.need, again, self.visit), notice_end(unit, self.done)] for unit in self.units
        }
        table = None if again else looked_up(model)
        self._rows = None if table is None else RowLookup(table, self.device)
        self._new = {unit: Newcomers(unit, self.device, partial(self._merge, unit)) for unit in self.units}
        self._seen = -1  # of what was put into modules
        self._guards = self._guarded()
        for unit in self.units:
            bring_home(unit, self)
        watch()
        _PLACED[bare(model)] = weakref.ref(self)

    @property
    def units(self) -> list[PlacedUnit]:
        """Return the units, in the order of the model."""
        return self.streamer.units

    @property
    def aside(self) -> list[Tensor]:
        """Return what stays on the host and never goes to the device: a table of embeddings."""
        return [] if self._rows is None else [self._rows.weight]

    @property
    def traffic(self) -> Traffic:
        """Return what was moved so far."""
        return self.streamer.traffic

    def begin(self, model: nn.Module) -> None:
        """Look, before the whole model is called, whether its weights are where they were, and nowhere else."""
        self._places.check_there()
        if self._seen != made():
            self._places.check_alone(model)
            self._seen = made()

    def visit(self, unit: PlacedUnit) -> None:
        """Let a unit be computed with from its beginning, adapters that were put on it meanwhile included."""
        self._check_not_traced(unit)
        self._new[unit].settle()
        self.streamer.need(unit)

    def need(self, unit: PlacedUnit) -> None:
        """Let a unit be computed with."""
        self._check_not_traced(unit)
        self.streamer.need(unit)

    def _check_not_traced(self, unit: PlacedUnit) -> None:
        """Raise HybridOptError where what is computed is noted to be run without the model, or twice."""
        if self.streamer.backend.keeps_memory:
            return
        kinds = {
            "torch.export": torch.compiler.is_exporting(),
            "torch.jit.trace": torch.jit.is_tracing(),
            "torch.func (grad, vjp, jvp, vmap)": _in_torch_func(),
        }
        if any(kinds.values()):
            what = next(kind for kind, here in kinds.items() if here)
            raise HybridOptError(
                f"{what} keeps weights of {unit.name!r}, which rest on {self.placement.base!r} and are on the device "
                "for the time of a layer alone; load the model without placement for that",
                "placement",
            )

    def done(self, unit: PlacedUnit) -> None:
        """Note that a forward pass through a unit has ended."""
        self.streamer.done(unit)

    def settle(self) -> None:
        """Bring adapters that were put on the model to the device that computes, and a table that they train."""
        if self._rows is not None:
            self._rows.settle()
        for each in self._new.values():
            each.settle()

    def rest(self) -> None:
        """Let every weight be where it rests, with its true values."""
        self.streamer.catch_up()

    def read(self) -> None:
        """Let every weight have its true values, as somebody is going to read it, in memory that lasts."""
        if self.streamer.outstanding or not self.streamer.backend.keeps_memory:
            self.streamer.catch_up()

    def give_up(self, unit: PlacedUnit) -> None:
        """Leave the weights of one unit where they rest, as ordinary tensors; the others go on as ever."""
        if unit not in self._hooks:
            return
        self.streamer = self.streamer.without(unit)
        forget([unit])
        for hook in self._hooks.pop(unit):
            hook.remove()
        self._unguard()
        if self.units:
            self._guards = self._guarded()
        else:
            self._close()

    def end(self) -> None:
        """Take all hooks off and leave every weight where it rests, as an ordinary tensor."""
        self.read()
        forget(self.units)
        for hooks in self._hooks.values():
            for hook in hooks:
                hook.remove()
        for each in self._new.values():
            each.leave()
        self._hooks = {}
        self._unguard()
        self._unlock()
        self._close()

    def _unlock(self) -> None:
        """Let weights be written to from now on, as far as there is memory for that."""
        try:
            for unit in self.units:
                self.streamer.backend.unlock(unit)
        except HybridOptError as error:
            warnings.warn(
                f"from {unit.name!r} on, weights of {type(unit.module).__name__} can only be read: {error}. Writing "
                "to one ends the process (SIGSEGV). Lift the limit of memory (RLIMIT_DATA, `ulimit -d`), or merge "
                "adapters before the placement ends",
                HybridOptWarning,
                stacklevel=2,
            )

    def _close(self) -> None:
        self.streamer.close()
        if self._rows is not None:
            self._rows.remove()
            self._rows = None
        model = self._model()
        if model is not None:
            _PLACED.pop(model, None)

    def _guarded(self) -> list[Any]:
        model = self._model()
        assert model is not None  # whoever calls has it
        aside = [] if self._rows is None else [(self._rows.weight, self._rows.table)]
        self._places = WeightPlaces(self.units, aside)
        calls = model.register_forward_pre_hook(Calls(self, self.units[0].pieces[0].tensor), with_kwargs=True)
        return [calls, NoReplicas(model), *guard(model, self), *for_readers(model, self.read, self.units)]

    def _unguard(self) -> None:
        for each in self._guards:
            each.remove()
        self._guards = []

    def _merge(self, unit: PlacedUnit, layer: nn.Module, change: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Give a unit up, and let a layer change its weights on the device; they are on the host afterwards."""
        self.give_up(unit)
        held = {id(piece.tensor): piece for piece in unit.pieces}
        inner = [m for m in layer.modules() if any(id(p) in held for p in m._parameters.values())]
        for piece in [held[id(p)] for m in inner for p in m._parameters.values() if id(p) in held]:
            piece.point(piece.tensor.data.to(self.device, copy=True))  # no file holds it from now on
        try:
            return change(*args, **kwargs)
        finally:
            for module in inner:
                module.to("cpu")


def placed(model: nn.Module) -> Placed | None:
    """Return the placement of a model, with adapters on it or without; None for a model that has none."""
    found = _PLACED.get(bare(model))
    return None if found is None else found()


def up_to_date(model: nn.Module) -> None:
    """Let every weight of a model that rests elsewhere have its true values there; see `Placed.read`."""
    if (found := placed(model)) is not None:
        found.read()


def unplace(model: nn.Module) -> None:
    """End the placement of a model, if it has one: its weights stay where they rest, as ordinary tensors."""
    there = placed(model)
    if there is not None:
        there.end()


def _in_torch_func() -> bool:
    # torch.compile takes the stack for one that is not empty
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None
