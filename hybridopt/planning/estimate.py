"""What one way of training a model takes: all of it in bytes, at the moment when most is taken."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from torch import nn

from ..core.errors import HybridOptError
from ..model.losses.chunked import chunked_loss
from ..model.roles import Param, clean, params
from ..policy.plan import Plan
from ..policy.routes import check_routes
from .bytes.static import Weights, gradient_bytes, idle_windows, static, weights
from .bytes.temporaries import Temporaries
from .request import Request
from .subject.inputs import inputs
from .subject.model import Subject, layers, skeleton
from .trace.extrapolate import extrapolate
from .trace.peak import Peak, Step, peak
from .trace.rhythm import rhythm
from .trace.simulate import Trace, simulate

__all__ = ["OVERHEAD", "Costs", "Estimate", "Estimator", "estimate_of"]

# An allowance, not measured here: a CUDA context with its kernels (300 to 600 MiB, by driver and card) and the
# workspaces of cuBLAS (32 MiB on Hopper, 8 MiB before), rounded up. Not in torch.cuda.max_memory_allocated, but for
# the workspaces.
OVERHEAD = {"cuda": 640 * 2**20, "cpu": 0}


@dataclass(frozen=True)
class Estimate:
    """Bytes by what they are for, at the largest moment of a step (`stage`); `peak_bytes` is their sum.

    weights: with buffers. quantization: scales and tables. gradients: alive at that moment. state: of the optimizer,
    in its largest window. activations: what the forward pass made. temporaries: what backward pass or update made
    besides. overhead: an allowance for the framework. largest_gradients: all gradients that are ever alive together.
    """

    model: str
    request: Request
    parameters: int
    trained_parameters: int
    weights_bytes: int
    quantization_bytes: int
    gradients_bytes: int
    state_bytes: int
    activations_bytes: int
    temporaries_bytes: int
    overhead_bytes: int
    stage: str

    @property
    def parts(self) -> dict[str, int]:
        """The amounts by name, without "_bytes"."""
        return {f.name[:-6]: getattr(self, f.name) for f in fields(self) if f.name.endswith("_bytes")}

    @property
    def peak_bytes(self) -> int:
        """The most that is alive at once."""
        return sum(self.parts.values())

    def missing(self, memory: int) -> int:
        """Bytes that are lacking on a device of so many; 0 where it fits."""
        return max(0, self.peak_bytes - memory)

    def as_dict(self, memory: int | None = None) -> dict[str, Any]:
        """Plain data; with `memory` also whether it fits, and what is missing."""
        out: dict[str, Any] = {"model": self.model, "peak_bytes": self.peak_bytes}
        out |= {f"{name}_bytes": size for name, size in self.parts.items()}
        out |= {"stage": self.stage, "parameters": self.parameters, "trained_parameters": self.trained_parameters}
        out["fits"] = None if memory is None else not self.missing(memory)
        if memory is not None:
            out["gpu_bytes"] = memory
            out |= {"missing_bytes": self.missing(memory)} if self.missing(memory) else {}
        return out | {"request": self.request.as_dict()}


class Costs:
    """What does not depend on the batch, on checkpointing, or on when gradients are released."""

    def __init__(self, weights: Weights, plan: Plan, cuda: bool):
        self.plan, self.static = plan, static(weights, plan)
        self.gradients, self.idle = gradient_bytes(plan), idle_windows(plan)
        self.updates = Temporaries(plan, cuda)

    @property
    def passes(self) -> dict[bool, dict[str, int]]:
        """Whether with a backward pass: of each kind that a step runs through, bytes for every parameter it is for."""
        kinds = {True: self.gradients, False: self.updates.drawing.alone}
        return {backward: used for backward, used in kinds.items() if used}

    def peak(self, traces: Iterable[Trace], request: Request) -> Peak:
        """The largest moment, in the window in which most is taken."""
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
    """A model on meta, and what all policies find in it."""

    def __init__(self, model: nn.Module):
        self.model, self.params, self.weights = model, params(model), weights(model)


class Estimator:
    """Estimates of one model; what several requests share is worked out once.

    change: done to every model that is made, for what no request can say.
    """

    def __init__(self, source: Subject, change: Callable[[nn.Module], object] = lambda model: None):
        self.source, self._change = source, change
        self._models: dict[tuple, Known] = {}
        self._costs: dict[tuple, Costs] = {}
        self._traces: dict[tuple, Trace] = {}

    def estimate(self, request: Request) -> Estimate:
        """Raises HybridOptError where the request cannot be met on this model."""
        costs = self._cost(request)
        return estimate_of(self.source.name, request, costs, self._traces_of(request, costs))

    def _cost(self, request):
        key = request.policy, repr(sorted(request.options.items())), request.seed, request.weights
        if key not in self._costs:
            known = self._known(request)
            plan = resolved(known.params, request)
            self._costs[key] = Costs(known.weights, plan, request.device == "cuda")
        return self._costs[key]

    def _known(self, request):
        key = request.weights, request.ready.opens_scales
        if key not in self._models:
            self._models[key] = Known(self._skeleton(request.but(checkpointing=False)))
        return self._models[key]

    def _skeleton(self, request, depth=None):
        model = skeleton(self.source, request, depth)
        self._change(model)
        return model

    def _traces_of(self, request, costs):
        """Of the backward pass and of probes, whichever there is."""
        return [self._trace(request, backward, used) for backward, used in costs.passes.items()]

    def _trace(self, request, backward, used):
        key = request.structure, backward, tuple(used.items())
        if key not in self._traces:
            self._traces[key] = self._simulated(request, backward, used)
        return self._traces[key]

    def _simulated(self, request, backward, used):
        depth = self.source.depth
        found = rhythm(self._known(request).model, self.source.config(), used, depth)
        if found is not None:
            short = (self._short(request, d, backward) for d in found.short(depth))
            whole = extrapolate(*short, depth, found)
            if whole is not None:
                return whole
        return self._short(request, depth, backward)

    def _short(self, request, depth, backward):
        model = self._skeleton(request, depth)
        plan = resolved(params(model), request, check=False)
        freeze_(model, plan)
        shifted = None if backward else Temporaries(plan, request.device == "cuda").drawing.alone
        told = inputs(model, request.batch, request.seq_len)
        with nullcontext() if request.chunk is None else chunked_loss(model, request.chunk):
            return simulate(model, told, layers(model, depth), shifted, request.device)


def estimate_of(name: str, request: Request, costs: Costs, traces: Iterable[Trace]) -> Estimate:
    """Everything put together."""
    found, top = costs.static, costs.peak(traces, request)
    return Estimate(
        name,
        request,
        found.parameters,
        found.trained,
        found.weights,
        found.quantization,
        round(top.gradients),
        found.state,
        round(top.activations),
        round(top.temporaries),
        OVERHEAD[request.device],
        " ".join(map(str, top.stage)),
    )


def resolved(found: list[Param], request: Request, check: bool = True) -> Plan:
    """The policy on a model's parameters; raises HybridOptError as `wrap` would."""
    ready = request.ready
    plan = Plan.of(found, ready, request.seed)
    if not plan.trained:
        raise HybridOptError(
            f"nothing to train: policy={request.policy!r} freezes every parameter that is not quantized; add LoRA "
            "(lora=16), or leave the quantization out"
        )
    if check and request.lora is None:
        check_routes(ready, plan.tags)
    return plan


def freeze_(model: nn.Module, plan: Plan) -> None:
    """What is not trained needs no gradient."""
    for name, p in model.named_parameters():
        treatment = plan.trained.get(clean(name))
        if p.requires_grad and (treatment is None or not treatment.source.backward):
            p.requires_grad_(False)
