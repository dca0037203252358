"""Which tensors of a planned model rest elsewhere, as the streamer would place them, and what that takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ...core.contracts import PlacedUnit, PlacementBackend, ProbeScheme
from ...core.errors import HybridOptError
from ...model.adapters import bare
from ...model.placement.placement import Placement
from ...model.placement.placing import backend_for
from ...model.placement.streaming.rows import looked_up
from ...model.placement.units import units
from ...model.roles import clean
from ...policy.plan import Plan
from ..request import Request
from ..trace.moments import Stage
from ..work import losses_of, probes_of, schemes_of
from .visits import Rounds, Visited, visited

__all__ = ["Carried", "Resting", "resting"]


@dataclass(frozen=True)
class Carried:
    """What rests elsewhere, and what a step moves, in bytes, once the order of the layers is known.

    Args:
        host: in the memory of the host, that of fetches from disk among it.
        disk: in files.
        layers: that rest elsewhere.
        bus: copied to the device in a step.
        returned: copied back in a step, on the average: trained weights.
        read: from files in a step.
        written: to files in a step, on the average.
        fetches: of layers in a step.
        multiplied: parameters with which every token is multiplied.
    """

    host: int
    disk: int
    layers: int
    bus: int
    returned: int
    read: int
    written: int
    fetches: int
    multiplied: int

    def as_dict(self) -> dict[str, Any]:
        """Return the bytes as plain data."""
        at_rest = {"host_bytes": self.host, "disk_bytes": self.disk, "layers_placed": self.layers}
        moved = {"bus_bytes_per_step": self.bus, "returned_bytes_per_step": self.returned}
        moved |= {"read_bytes_per_step": self.read}
        return at_rest | moved | {"written_bytes_per_step": self.written, "fetches_per_step": self.fetches}


class Resting:
    """Tensors of a model that rest elsewhere, with what a plan trains.

    Args:
        placement: where they rest.
        found: the units that the streamer has, or would have.
        on_host: tensors that never leave the host.
        plan: the policy, resolved on the model's parameters.
        cuda: whether a GPU computes.

    Raises:
        HybridOptError: the plan trains what rests elsewhere by backward passes.
    """

    def __init__(
        self, placement: Placement, found: Sequence[PlacedUnit], on_host: Sequence[Tensor], plan: Plan, cuda: bool
    ):
        self.placement, self.cuda = placement, cuda
        self.units, self._plan = list(found), plan
        carrier = _carrier(placement, cuda)
        self.sizes = tuple(map(carrier.takes, found))
        self.tensors = [*(x for unit in found for x in unit.tensors), *on_host]
        self.on_host = sum(x.nbytes for x in on_host)
        self._held = carrier.holds(found)
        self.path = clean(found[0].name).rpartition(".")[0] if found else ""
        self._trained = self._check_trained()

    def near(self, request: Request) -> Callable[[str, Stage], int]:
        """Return what tells the most bytes that are near in a stage, the list of layers given by name.

        request: says how a step passes through the layers.
        """
        found = self._visited(request)

        def near(path: str, stage: Stage) -> int:
            if path != self.path:  # stages are numbered by another list
                return found.most
            own = (stage[0], stage[1] - self.placement.resident) if len(stage) > 1 else stage
            return found.near.get(own, found.near[("end",)])

        return near

    def carried(self, request: Request) -> Carried:
        """Return what rests elsewhere and what a step moves."""
        found, disk = self._visited(request), self.placement.base == "disk"
        return Carried(
            host=self.on_host + self._held,
            disk=sum(unit.nbytes for unit in self.units) if disk else 0,
            layers=len(self.sizes),
            bus=found.bytes if self.cuda or not disk else 0,
            returned=0 if disk else found.written,
            read=sum(n * unit.nbytes for n, unit in zip(found.each, self.units, strict=True)) if disk else 0,
            written=found.written if disk else 0,
            fetches=found.fetches,
            multiplied=sum(e.numel for e in self._plan.entries if e.param.role != "embedding"),
        )

    def _visited(self, request: Request) -> Visited:
        backward = any(t.source.backward for t in self._plan.trained.values())
        probes = sum(self._passes(scheme) for scheme in schemes_of(self._plan))
        passes = (False,) * probes + (True,) * backward
        trained = self._trained if any(self._trained) else ()
        rounds = Rounds(passes, self._first(request), trained, request.micro_batches)
        return _visited(self.sizes, self.placement, rounds)

    def _passes(self, scheme: ProbeScheme) -> int:
        """Return the passes in which the losses of a step are worked out, for each micro-batch."""
        return (1 + scheme.conservative) if self.placement.paired else losses_of(scheme)

    @property
    def lanes(self) -> int:
        """Return how many evaluations are alive at the same time."""
        if not self.placement.paired:
            return 1
        return max(map(probes_of, schemes_of(self._plan)), default=1)

    def _first(self, request: Request) -> int:
        """Return the first unit that a backward pass comes to."""
        # With checkpointing, inputs of the first layer require gradients, as PEFT and `load` see to it.
        return 0 if request.checkpointing else self._trained_first

    @cached_property
    def _trained_first(self) -> int:
        """Return the first unit that is trained by backward passes, or follows what is."""
        backward = [e.param for e in self._plan.entries if e.treatment is not None and e.treatment.source.backward]
        places = {clean(unit.name): index for index, unit in enumerate(self.units)}
        late = {"head": len(places), "norm": len(places)}
        start = len(self.path) + 1
        found = []
        for p in backward:
            number = p.name[start:].partition(".")[0] if p.name.startswith(f"{self.path}.") else ""
            found.append(places.get(f"{self.path}.{number}", 0 if number else late.get(p.role, 0)))
        return min(found, default=0)

    def _check_trained(self) -> tuple[int, ...]:
        """Return the bytes of each unit that are trained; only losses may train them."""
        trained = self._plan.trained
        pieces = [(clean(piece.weight), piece) for unit in self.units for piece in unit.pieces]
        lost = [name for name, _ in pieces if name in trained and trained[name].source.backward]
        if lost:
            raise HybridOptError(
                f"placement={self.placement.base!r}: {len(lost)} weights that rest elsewhere, such as {lost[0]!r}, "
                "are trained by backward passes, and would have to be written back; add LoRA (lora=16), or train by "
                "losses alone (policy='mezo')"
            )
        own = [[piece for piece in unit.pieces if clean(piece.weight) in trained] for unit in self.units]
        return tuple(sum(piece.nbytes for piece in pieces) for pieces in own)


def _carrier(placement: Placement, cuda: bool) -> type[PlacementBackend]:
    """Return what carries the units; what rests on the host has a CPU in the place of a GPU only in tests."""
    return backend_for(placement, torch.device("cuda" if cuda or placement.base == "host" else "cpu"))


@cache
def _visited(sizes: tuple[int, ...], placement: Placement, rounds: Rounds) -> Visited:
    return visited(sizes, placement, rounds)


def resting(model: nn.Module, placement: Placement, plan: Plan, cuda: bool) -> Resting:
    """Return what of a model would rest elsewhere.

    Args:
        model: on any device.
        placement: where to.
        plan: the policy, resolved on the model's parameters.
        cuda: whether another device than the CPU computes.

    Raises:
        HybridOptError: the model has no list of layers, or too few, or weights that rest elsewhere are trained.
    """
    found = units(model, placement.resident)
    if not found:
        raise HybridOptError(
            f"resident={placement.resident} leaves no layer of {type(bare(model)).__name__} to be placed; take fewer, "
            "or leave placement out"
        )
    return Resting(placement, found, _on_host(model, plan) if cuda else [], plan, cuda)


def _on_host(model: nn.Module, plan: Plan) -> list[Tensor]:
    """Return the embedding whose rows are looked up on the host, where it is not trained."""
    table = looked_up(model)
    names = [clean(n) for n, p in model.named_parameters() if table is not None and p is table.weight]
    return [] if table is None or names[0] in plan.trained else [table.weight]
