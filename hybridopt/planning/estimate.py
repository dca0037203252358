"""What one way of training a model takes: all of it in bytes, at the moment when most is taken."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from ..errors import HybridOptError
from ..plan import Plan
from ..policy import check_routes
from ..roles import clean, params
from .extrapolate import SHORT, extrapolate
from .model import Source, layers, skeleton
from .peak import Peak, Step, peak
from .request import Request
from .simulate import Trace, simulate
from .static import gradient_bytes, idle_windows, static
from .temporaries import Temporaries

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

    def __init__(self, model: nn.Module, plan: Plan, cuda: bool):
        self.plan, self.static = plan, static(model, plan)
        self.gradients, self.idle = gradient_bytes(plan), idle_windows(plan)
        self.updates = Temporaries(plan, cuda)
        self.probed = any(t.probed for t in plan.trained.values())

    def peak(self, traces: Iterable[Trace], request: Request) -> Peak:
        """The largest moment, in the window in which most is taken."""
        times = request.release == "fused", request.micro_batches
        alone, together = self.updates.alone, self.updates.together
        steps = [
            Step(self.gradients, still, *times, alone, partial(together, still), self.probed) for still in self.idle
        ]
        kept, top = self.updates.drawing.prepared
        found = [peak(trace, step) for step in steps for trace in traces]
        found += [Peak(("start",), 0, top - kept, 0)]
        most = max(found, key=lambda p: p.total)
        return replace(most, temporaries=most.temporaries + kept)


class Estimator:
    """Estimates of one model; what several requests share is worked out once."""

    def __init__(self, source: Source):
        self.source = source
        self._models: dict[tuple, nn.Module] = {}
        self._costs: dict[tuple, Costs] = {}
        self._traces: dict[tuple, Trace] = {}

    def estimate(self, request: Request) -> Estimate:
        """Raises HybridOptError where the request cannot be met on this model."""
        costs = self._cost(request)
        return estimate_of(self.source.name, request, costs, self._traces_of(request, costs.plan))

    def _cost(self, request):
        key = request.policy, repr(sorted(request.options.items())), request.seed, request.weights
        if key not in self._costs:
            model = self._model(request)
            self._costs[key] = Costs(model, resolved(model, request), request.device == "cuda")
        return self._costs[key]

    def _model(self, request):
        key = request.weights, getattr(request.ready, "opens_scales", False)
        if key not in self._models:
            self._models[key] = skeleton(self.source, request.but(checkpointing=False))
        return self._models[key]

    def _traces_of(self, request, plan):
        """Of the backward pass and of probes, whichever there is."""
        uses = plan.trained.values()
        kinds = [True] * any(t.source.backward for t in uses) + [False] * any(t.probed for t in uses)
        return [self._trace(request, plan, backward) for backward in kinds]

    def _trace(self, request, plan, backward):
        key = request.structure, backward, tuple(_patterns(plan))
        if key not in self._traces:
            self._traces[key] = self._simulated(request, backward)
        return self._traces[key]

    def _simulated(self, request, backward):
        depth = self.source.depth
        if depth > max(SHORT):
            found = extrapolate(*(self._short(request, d, backward) for d in SHORT), depth)
            if found is not None:
                return found
        return self._short(request, depth, backward)

    def _short(self, request, depth, backward):
        model = skeleton(self.source, request, depth)
        plan = resolved(model, request, check=False)
        freeze_(model, plan)
        tokens = torch.empty(request.batch, request.seq_len, dtype=torch.long, device="meta")
        batch = {"input_ids": tokens, "labels": tokens.clone()}
        shifted = None if backward else Temporaries(plan, request.device == "cuda").drawing.alone
        return simulate(model, batch, layers(model, depth), shifted, request.device)


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


def resolved(model: nn.Module, request: Request, check: bool = True) -> Plan:
    """The policy on a model; raises HybridOptError as `wrap` would."""
    ready = request.ready
    plan = Plan.of(params(model), ready, request.seed)
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


def _patterns(plan: Plan) -> list[str]:
    """Which parameters are trained, layers aside."""
    return sorted({re.sub(r"\.\d+\.", ".*.", name) for name in plan.trained})
