"""Estimate what one way of training a model takes, in bytes, at the moment of a step when most is alive."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from torch import nn

from ..core.errors import HybridOptError
from ..model.losses.chunked import chunked_loss
from ..model.roles import Param, clean, params
from ..model.unquantized import Unquantized, unquantized
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
    """Bytes by what they are for, at the largest moment of a step; `peak_bytes` is their sum.

    Args:
        model: name of the model.
        request: the way to train that was estimated.
        parameters: number of the model's parameters, with adapters.
        trained_parameters: how many of them are trained.
        weights_bytes: parameters, or their codes, and buffers.
        quantization_bytes: scales and tables of quantized weights.
        gradients_bytes: gradients that are alive at the largest moment.
        state_bytes: optimizer state, in the window in which it is largest.
        activations_bytes: what the forward pass made and is alive at the largest moment.
        temporaries_bytes: what the backward pass or the update made besides.
        overhead_bytes: an allowance for the framework.
        stage: where in the step the largest moment lies, such as "backward 3" for layer 3.
        unquantized: what a quantized base keeps in floats; None: it is not quantized.
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
    unquantized: Unquantized | None = None

    @property
    def parts(self) -> dict[str, int]:
        """Return the amounts of bytes by name, without "_bytes"."""
        return {f.name[:-6]: getattr(self, f.name) for f in fields(self) if f.name.endswith("_bytes")}

    @property
    def peak_bytes(self) -> int:
        """Return the most bytes that are alive at once: the sum of all parts."""
        return sum(self.parts.values())

    def missing(self, memory: int) -> int:
        """Return the bytes that are lacking on a device of `memory` bytes; 0 where it fits."""
        return max(0, self.peak_bytes - memory)

    def as_dict(self, memory: int | None = None) -> dict[str, Any]:
        """Return the estimate as plain data; with `memory` in bytes also whether it fits, and what is missing."""
        out: dict[str, Any] = {"model": self.model, "peak_bytes": self.peak_bytes}
        out |= {f"{name}_bytes": size for name, size in self.parts.items()}
        out |= {"stage": self.stage, "parameters": self.parameters, "trained_parameters": self.trained_parameters}
        out |= {} if self.unquantized is None else {"unquantized": self.unquantized.as_dict()}
        out["fits"] = None if memory is None else not self.missing(memory)
        if memory is not None:
            out["gpu_bytes"] = memory
            out |= {"missing_bytes": self.missing(memory)} if self.missing(memory) else {}
        return out | {"request": self.request.as_dict()}


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


class Estimator:
    """Estimate ways to train one model; what several requests share is worked out once.

    Args:
        source: the model's dimensions.
        change: is called with every model that is made, for changes that no request can express.
    """

    def __init__(self, source: Subject, change: Callable[[nn.Module], object] = lambda model: None):
        self.source, self._change = source, change
        self._models: dict[tuple, Known] = {}
        self._costs: dict[tuple, Costs] = {}
        self._traces: dict[tuple, Trace] = {}

    def estimate(self, request: Request) -> Estimate:
        """Return what a way to train takes.

        Raises:
            HybridOptError: the model cannot be trained in this way.
        """
        costs = self._cost(request)
        left = self._known(request).unquantized
        return estimate_of(self.source.name, request, costs, self._traces_of(request, costs), left)

    def _cost(self, request: Request) -> Costs:
        key = request.policy, repr(sorted(request.options.items())), request.seed, request.weights
        if key not in self._costs:
            known = self._known(request)
            plan = resolved(known.params, request)
            self._costs[key] = Costs(known.weights, plan, request.device == "cuda")
        return self._costs[key]

    def _known(self, request: Request) -> Known:
        key = request.weights, request.ready.opens_scales
        if key not in self._models:
            self._models[key] = Known(self._skeleton(request.but(checkpointing=False)))
        return self._models[key]

    def _skeleton(self, request: Request, depth: int | None = None) -> nn.Module:
        model = skeleton(self.source, request, depth)
        self._change(model)
        return model

    def _traces_of(self, request: Request, costs: Costs) -> list[Trace]:
        """Return the traces of forward and backward pass and of probes, whichever the step has."""
        return [self._trace(request, backward, used) for backward, used in costs.passes.items()]

    def _trace(self, request: Request, backward: bool, used: dict[str, int]) -> Trace:
        key = request.structure, backward, tuple(used.items())
        if key not in self._traces:
            self._traces[key] = self._simulated(request, backward, used)
        return self._traces[key]

    def _simulated(self, request: Request, backward: bool, used: dict[str, int]) -> Trace:
        """Return the trace of one pass, from two models of few layers where these stand for the whole."""
        depth = self.source.depth
        found = rhythm(self._known(request).model, self.source.config(), used, depth)
        if found is not None:
            short, long = (self._short(request, d, backward) for d in found.short(depth))
            whole = extrapolate(short, long, depth, found)
            if whole is not None:
                return whole
        return self._short(request, depth, backward)

    def _short(self, request: Request, depth: int, backward: bool) -> Trace:
        """Simulate one pass of a model of `depth` layers."""
        model = self._skeleton(request, depth)
        plan = resolved(params(model), request, check=False)
        freeze_(model, plan)
        shifted = None if backward else Temporaries(plan, request.device == "cuda").drawing.alone
        told = inputs(model, request.batch, request.seq_len)
        with nullcontext() if request.chunk is None else chunked_loss(model, request.chunk):
            return simulate(model, told, layers(model, depth), shifted, request.device)


def estimate_of(
    name: str, request: Request, costs: Costs, traces: Iterable[Trace], left: Unquantized | None = None
) -> Estimate:
    """Return the Estimate of a model: static bytes and those of the largest moment.

    Args:
        name: of the model.
        request: the way to train.
        costs: of the request's plan on this model.
        traces: of every kind of pass that a step runs.
        left: what a quantized base keeps in floats.
    """
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
        left,
    )


def resolved(found: list[Param], request: Request, check: bool = True) -> Plan:
    """Return the request's policy resolved on a model's parameters.

    Args:
        found: the parameters.
        request: the way to train.
        check: whether to refuse a route whose name pattern matches no parameter; never done with adapters.

    Raises:
        HybridOptError: nothing would be trained, or the check fails, as in `wrap`.
    """
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
    """Set requires_grad=False on parameters that the plan freezes or trains without a backward pass."""
    for name, p in model.named_parameters():
        treatment = plan.trained.get(clean(name))
        if p.requires_grad and (treatment is None or not treatment.source.backward):
            p.requires_grad_(False)
