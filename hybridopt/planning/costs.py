"""What a plan costs on a model: static bytes, gradients, and updates, whatever the batch."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from torch import nn

from ..model.roles import params
from ..model.unquantized import unquantized
from ..policy.plan import Plan
from .bytes.static import Weights, gradient_bytes, idle_windows, static, weights
from .bytes.temporaries import Temporaries
from .request import Request
from .trace.peak import Peak, Step, peak
from .trace.simulate import Trace

__all__ = ["Costs", "Known"]


class Costs:
    """What a plan costs, whatever the batch, checkpointing or release: static bytes, gradients, updates.

    Args:
        weights: bytes of the model's weights.
        plan: the policy, resolved on the model's parameters.
        cuda: whether it is trained on a GPU.
    """

    def __init__(self, weights: Weights, plan: Plan, cuda: bool):
        self.plan, self.static = plan, static(weights, plan)
        self.gradients, self.idle = gradient_bytes(plan), idle_windows(plan)
        self.updates = Temporaries(plan, cuda)

    @property
    def passes(self) -> dict[bool, dict[str, int]]:
        """Return the kinds of passes of a step: whether with a backward pass, and bytes by parameter that it serves.

        The bytes are gradients of a backward pass, and what shifting a parameter takes in a forward pass alone.
        """
        kinds = {True: self.gradients, False: self.updates.drawing.alone}
        return {backward: used for backward, used in kinds.items() if used}

    def least(self, request: Request) -> int:
        """Return a lower bound on a step's bytes without a trace: weights, state, gradients that are not freed."""
        kept = [sum(size for name, size in self.gradients.items() if name not in still) for still in self.idle]
        gradients = 0 if request.frees_gradients else min(kept, default=0)
        return self.static.weights + self.static.quantization + self.static.state + gradients

    def peak(self, traces: Iterable[Trace], request: Request) -> Peak:
        """Return the largest moment of a step, in the window in which it is largest."""
        times = request.frees_gradients, request.micro_batches
        alone, together = self.updates.alone, self.updates.together
        probed = False in self.passes
        steps = [Step(self.gradients, still, *times, alone, partial(together, still), probed) for still in self.idle]
        kept, top = self.updates.drawing.prepared
        found = [peak(trace, step) for step in steps for trace in traces]
        found += [Peak(("start",), 0, top - kept, 0)]
        most = max(found, key=lambda p: p.total)
        return replace(most, temporaries=most.temporaries + kept)


class Known:
    """A model on the meta device, with its parameters' roles and the bytes of its weights."""

    def __init__(self, model: nn.Module):
        self.params, self.weights, self.unquantized = params(model), weights(model), unquantized(model)
        self.model = model
