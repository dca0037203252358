"""What a plan costs on a model: static bytes, gradients, and updates, whatever the batch."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from torch import nn

from ..model.roles import params
from ..model.unquantized import unquantized
from ..policy.plan import Plan
from .bytes.static import gradient_bytes, idle_windows, static, weights
from .bytes.temporaries import Temporaries
from .placement.offloaded_tensors import Carried, Resting, resting
from .ranks.each_rank import across
from .ranks.updates import RankUpdates
from .request import Request
from .trace.moments import Stage
from .trace.peak import Peak, Step, peak
from .trace.simulate import Trace

__all__ = ["Costs", "Known"]


class Costs:
    """What a plan costs, whatever the batch, checkpointing or release: static bytes, gradients, updates.

    Args:
        known: the model.
        plan: the policy, resolved on the model's parameters.
        request: says on how many GPUs it is trained, and of which kind.
        resting: what of the model rests elsewhere; None: nothing does.
    """

    def __init__(self, known: "Known", plan: Plan, request: Request, resting: Resting | None = None):
        self.plan, self.resting = plan, resting
        here = known.weights if resting is None else weights(known.model, resting.tensors)
        self.gradients, self.idle = gradient_bytes(plan), idle_windows(plan)
        self.across = across(here, plan, self.gradients, request)
        self.static = static(here if self.across is None else self.across.weights, plan)
        self.updates: Temporaries | RankUpdates = Temporaries(plan, request.device == "cuda")
        if self.across is not None:
            self.static = replace(self.static, state=self.across.state)
            self.updates = self.across.updates

    @property
    def passes(self) -> dict[bool, dict[str, int]]:
        """Return the kinds of passes of a step: whether with a backward pass, and bytes by parameter that it serves.

        The bytes are gradients of a backward pass, and what shifting a parameter takes in a forward pass alone.
        """
        kinds = {True: self.gradients, False: self.updates.drawing.alone}
        return {backward: used for backward, used in kinds.items() if used}

    def least(self, request: Request) -> int:
        """Return a lower bound on a step's bytes without a trace: weights, state, gradients that are not freed."""
        kept = [self._kept(still) for still in self.idle]
        gradients = 0 if request.frees_gradients else min(kept, default=0)
        near = self._near(request)(self._path, ("end",))
        return self.static.weights + self.static.quantization + self.static.state + gradients + near

    def _kept(self, idle: frozenset[str]) -> int:
        """Return the bytes of gradients that stay until the update, where some parameters are idle."""
        if self.across is not None:
            return self.across.least(idle)
        return sum(size for name, size in self.gradients.items() if name not in idle)

    def carried(self, request: Request) -> Carried | None:
        """Return what rests elsewhere and is moved in a step; None where nothing is."""
        return None if self.resting is None else self.resting.carried(request)

    def peak(self, traces: Iterable[Trace], request: Request) -> Peak:
        """Return the largest moment of a step, in the window in which it is largest."""
        times = request.frees_gradients, request.micro_batches
        alone, together = self.updates.alone, self.updates.together
        probed = False in self.passes
        near = self._near(request)
        steps = [
            Step(self.gradients, still, *times, alone, partial(together, still), probed, near) for still in self.idle
        ]
        kept, top = self.updates.drawing.prepared
        pairs = [(trace, step) for trace in map(self._together, traces) for step in steps]
        several = self.across
        found = [
            peak(trace, step, None if several is None else several.moments(trace, step, request))
            for trace, step in pairs
        ]
        found += [Peak(("start",), 0, max(top, self.updates.noting) - kept, 0, near(self._path, ("start",)))]
        most = max(found, key=lambda p: p.total)
        return replace(most, temporaries=most.temporaries + kept + self.updates.lasting)

    def _together(self, trace: Trace) -> Trace:
        """Return a trace with what other evaluations, which wait for their turn, keep between two layers."""
        waiting = 0 if self.resting is None or not trace.probes else self.resting.lanes - 1
        if not waiting:
            return trace
        kept = waiting * max((m.left[0] for m in trace.moments if m.stage[0] == "forward"), default=0)
        within = ("forward", "head")
        moments = (replace(m, forward=m.forward + kept) if m.stage[0] in within else m for m in trace.moments)
        return replace(trace, moments=tuple(moments))

    @property
    def _path(self) -> str:
        return "" if self.resting is None else self.resting.path

    def _near(self, request: Request) -> Callable[[str, Stage], int]:
        return (lambda path, stage: 0) if self.resting is None else self.resting.near(request)


class Known:
    """A model on any device, with its parameters' roles and the bytes of its weights."""

    def __init__(self, model: nn.Module):
        self.model, self.params, self.weights = model, params(model), weights(model)
        self.unquantized = unquantized(model, parameters=self.params)

    def costs(self, plan: Plan, request: Request) -> Costs:
        """Return what a plan costs on this model, placed as the request says."""
        placement = request.placement
        found = None if placement is None else resting(self.model, placement, plan, request.device == "cuda")
        return Costs(self, plan, request, found)
