"""Estimate what one way of training a model takes, in bytes, at the moment of a step when most is alive."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from ..core.budget import Budget
from ..core.errors import HybridOptError
from ..model.losses.chunked import chunked_loss
from ..model.roles import Param, clean, params
from ..model.unquantized import Unquantized
from ..policy.plan import Plan
from ..policy.routes import check_routes
from .bytes.temporaries import Temporaries
from .costs import Costs, Known
from .request import Request
from .subject.inputs import inputs
from .subject.model import Subject, layers, skeleton
from .trace.extrapolate import extrapolate
from .trace.rhythm import rhythm
from .trace.simulate import Limit, Trace, simulate
from .trace.tokens import traced

__all__ = ["OVERHEAD", "Estimate", "Estimator", "estimate_of", "freeze_"]

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

    def tight(self, room: Budget) -> bool:
        """Return whether it fits only into the margin that is to be kept free."""
        return room.usable < self.peak_bytes <= room.total

    def as_dict(self, room: Budget | None = None) -> dict[str, Any]:
        """Return the estimate as plain data; with `room` also whether it fits beside its margin."""
        out: dict[str, Any] = {"model": self.model, "peak_bytes": self.peak_bytes}
        out |= {f"{name}_bytes": size for name, size in self.parts.items()}
        out |= {"stage": self.stage, "parameters": self.parameters, "trained_parameters": self.trained_parameters}
        out |= {} if self.unquantized is None else {"unquantized": self.unquantized.as_dict()}
        out["fits"] = None if room is None else not self.missing(room.usable)
        if room is not None:
            out |= {"gpu_bytes": room.total, "kept_free_bytes": room.kept, "fits_only_in_margin": self.tight(room)}
            missing = self.missing(room.usable)
            out |= {"missing_bytes": missing} if missing else {}
        return out | {"request": self.request.as_dict()}


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
        self._steps: bool | None = None  # does the model step through tokens one by one? None: not known

    def estimate(self, request: Request) -> Estimate:
        """Return what a way to train takes.

        Raises:
            HybridOptError: the model cannot be trained in this way.
        """
        costs = self._cost(request)
        left = self._known(request).unquantized
        return estimate_of(self.source.name, request, costs, self._traces_of(request, costs), left)

    def least(self, request: Request) -> int:
        """Return a lower bound on what a way takes, in bytes, without a simulated pass; raise as `estimate` does."""
        return self._cost(request).least(request) + OVERHEAD[request.device]

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
        """Return the trace of one pass of a model of `depth` layers, simulated or extrapolated from few tokens."""

        def run(tokens: int, limit: Limit) -> Trace:
            if request.chunk is not None and tokens != request.seq_len:
                raise HybridOptError(
                    f"chunk={request.chunk} is not planned for {self.source.name}, which steps through tokens one by "
                    "one; leave chunk out"
                )
            return self._pass(request.but(seq_len=tokens), depth, backward, limit)

        chunks = 0 if request.chunk is None else request.seq_len // request.chunk + 1
        trace, self._steps = traced(run, request.seq_len, depth, self._steps, chunks)
        return trace

    def _pass(self, request: Request, depth: int, backward: bool, limit: Limit) -> Trace:
        """Simulate one pass of a model of `depth` layers."""
        model = self._skeleton(request, depth)
        plan = resolved(params(model), request, check=False)
        freeze_(model, plan)
        shifted = None if backward else Temporaries(plan, request.device == "cuda").drawing.alone
        told = inputs(model, request.batch, request.seq_len)
        with nullcontext() if request.chunk is None else chunked_loss(model, request.chunk):
            return simulate(model, told, layers(model, depth), shifted, request.device, limit)


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
