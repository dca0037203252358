"""How several GPUs share a model: what each keeps, and what is on its way between them."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Protocol, cast

from ...policy.plan import Plan
from ..bytes.static import Weights, moved_bytes
from ..bytes.temporaries import Temporaries
from ..request import Request
from ..trace.peak import Peak, Step, alone_moments
from ..trace.simulate import Trace
from .moments import sharded_moments
from .units import Unit, Units, bytes_of, is_cut, units_of
from .updates import RankUpdates

__all__ = ["Across", "PlannedReplicas", "PlannedShards", "across"]


class Across(Protocol):
    """What one of several GPUs takes."""

    weights: Weights
    """Of a rank."""

    state: int
    """Bytes of optimizer state, of the rank with most."""

    updates: Temporaries | RankUpdates
    """What updates of a rank take."""

    def least(self, idle: frozenset[str]) -> int:
        """Return the bytes of gradients that stay until the update, where some parameters are idle."""
        ...

    def moved(self, gradients: dict[str, int], idle: frozenset[str]) -> int:
        """Return the bytes that the update of a rank reads and writes; arguments as of `RankUpdates.moved`."""
        ...

    def moments(self, trace: Trace, step: Step, request: Request) -> Iterator[Peak]:
        """Yield the moments of a step on a rank.

        Args:
            trace: of a pass of the whole model.
            step: when gradients are freed, and what updates take.
            request: the way to train.
        """
        ...


class PlannedShards:
    """FSDP2: every rank keeps its rows of each parameter, and gathers one layer at a time.

    Args:
        found: bytes of the whole model.
        plan: the policy, resolved on its parameters.
        gradients: bytes by name of those that the backward pass serves.
        request: the way to train.
    """

    def __init__(self, found: Weights, plan: Plan, gradients: dict[str, int], request: Request):
        self._plan, self._gradients, self._ranks = plan, gradients, request.gpus
        self._scheme = request.scheme
        whole = sum(bytes_of(e.param, self._scheme) for e in plan.entries if is_cut(e.param, self._scheme))
        everything = sum(self._units("").each.values(), Unit())
        self.weights = replace(found, weights=found.weights - whole + everything.shard)
        own = RankUpdates(plan, request.device == "cuda", request.gpus)
        self.state, self.updates, self.moved = own.state, cast(Temporaries | RankUpdates, own), own.moved
        self._units = cache(self._units)  # type: ignore[method-assign]
        probed = [e for e in plan.entries if e.treatment is not None and e.treatment.probed]
        self._copies = sum(unit.shard for unit in units_of(probed, {}, "", self._ranks).each.values())

    def least(self, idle: frozenset[str]) -> int:
        """Return the bytes of gradients that stay until the update."""
        return sum(size for name, size in self._gradients.items() if name not in idle) // self._ranks

    def moments(self, trace: Trace, step: Step, request: Request) -> Iterator[Peak]:
        """Yield the moments of a step on a rank.

        Args:
            trace: of a pass of the whole model.
            step: when gradients are freed, and what updates take.
            request: the way to train.
        """
        copies = request.device == "cpu"
        found = sharded_moments(trace, step, self._units(trace.path), request.checkpointing, copies)
        return (self._beside_copies(p) for p in found) if trace.probes else found

    def _beside_copies(self, moment: Peak) -> Peak:
        """Return a moment of a probe with the copy of the rows that are shifted; the update begins without it."""
        copies = 0 if moment.stage == ("update",) else self._copies
        return replace(moment, temporaries=moment.temporaries + copies)

    def _units(self, path: str) -> Units:
        return units_of(self._plan.entries, self._gradients, path, self._ranks, self._scheme)


class PlannedReplicas:
    """DDP: every rank keeps everything, and buckets in which gradients are averaged.

    Args:
        found: bytes of the model.
        plan: the policy, resolved on its parameters.
        gradients: bytes by name of those that the backward pass serves.
        request: the way to train.
    """

    def __init__(self, found: Weights, plan: Plan, gradients: dict[str, int], request: Request):
        self.weights, self._gradients = found, gradients
        self.updates: Temporaries | RankUpdates = Temporaries(plan, request.device == "cuda")
        self.state, self.moved = plan.largest(plan.trained), partial(moved_bytes, plan)

    def least(self, idle: frozenset[str]) -> int:
        """Return the bytes of gradients and buckets that stay until the update."""
        return sum(self._gradients.values()) + sum(n for name, n in self._gradients.items() if name not in idle)

    def moments(self, trace: Trace, step: Step, request: Request) -> Iterator[Peak]:
        """Yield the moments of a step on a rank; the buckets are there all the time.

        Args:
            trace: of a pass of the model.
            step: when gradients are freed, and what updates take.
            request: the way to train.
        """
        buckets = sum(self._gradients.values())
        return (replace(p, collectives=buckets) for p in alone_moments(trace, step))


def across(found: Weights, plan: Plan, gradients: dict[str, int], request: Request) -> Across | None:
    """Return how the GPUs of a request share a model; None for one GPU.

    Args:
        found: bytes of the whole model.
        plan: the policy, resolved on its parameters.
        gradients: bytes by name of those that the backward pass serves.
        request: the way to train.
    """
    if request.gpus == 1:
        return None
    return (PlannedShards if request.parallel == "fsdp" else PlannedReplicas)(found, plan, gradients, request)
