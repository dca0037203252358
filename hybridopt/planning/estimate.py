"""Estimate what one way of training a model takes, in bytes, at the moment of a step when most is alive."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from ..core.budget import Budget
from ..core.card_speeds import Flops
from ..core.host import Host
from ..model.unquantized import Unquantized
from .costs import Costs
from .placement.offloaded_tensors import Carried
from .placement.pace import pace_of
from .request import Request
from .text import as_text
from .trace.simulate import Trace
from .work import Work, work_of

__all__ = ["OVERHEAD", "Estimate", "estimate_of"]

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
        near_bytes: weights of layers that rest elsewhere, as far as they are on the device at the largest moment.
        gradients_bytes: gradients that are alive at the largest moment.
        state_bytes: optimizer state, in the window in which it is largest.
        activations_bytes: what the forward pass made and is alive at the largest moment.
        temporaries_bytes: what the backward pass or the update made besides.
        overhead_bytes: an allowance for the framework.
        stage: where in the step the largest moment lies, such as "backward 3" for layer 3.
        work: what the step computes and moves.
        unquantized: what a quantized base keeps in floats; None: it is not quantized.
        carried: what rests elsewhere, and what a step moves; None: everything is on the device.
        collectives_bytes: of several GPUs: weights that are gathered, and what gradients are added up in.
    """

    model: str
    request: Request
    parameters: int
    trained_parameters: int
    weights_bytes: int
    quantization_bytes: int
    near_bytes: int
    gradients_bytes: int
    state_bytes: int
    activations_bytes: int
    temporaries_bytes: int
    overhead_bytes: int
    stage: str
    work: Work
    unquantized: Unquantized | None = None
    carried: Carried | None = None
    collectives_bytes: int = 0

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

    def missing_on_host(self, host: Host | None) -> int:
        """Return the bytes that are lacking in the memory of a host; 0 where they fit, or it is not known."""
        return 0 if host is None or self.carried is None else host.missing(self.carried.host)

    def tight(self, room: Budget) -> bool:
        """Return whether it fits only into the margin that is to be kept free."""
        return room.usable < self.peak_bytes <= room.total

    def __str__(self) -> str:
        """Return the table that `hybridopt plan` prints, as text."""
        return as_text(self)

    __repr__ = __str__

    def as_dict(
        self, room: Budget | None = None, host: Host | None = None, flops: Flops | None = None
    ) -> dict[str, Any]:
        """Return the estimate as plain data.

        Args:
            room: of the device; then also whether it fits beside its margin.
            host: whose memory is counted, too, and whose bus and disk carry placed layers.
            flops: that the device reaches; None: not known.
        """
        out: dict[str, Any] = {"model": self.model, "peak_bytes": self.peak_bytes}
        out |= {f"{name}_bytes": size for name, size in self.parts.items()}
        out |= {"stage": self.stage, "parameters": self.parameters, "trained_parameters": self.trained_parameters}
        out |= self.work.as_dict()
        out |= {} if self.carried is None else self.carried.as_dict()
        out |= {} if self.unquantized is None else {"unquantized": self.unquantized.as_dict()}
        lacking = self.missing_on_host(host)
        out["fits"] = None if room is None else not (self.missing(room.usable) or lacking)
        if room is not None:
            out |= {"gpu_bytes": room.total, "kept_free_bytes": room.kept, "fits_only_in_margin": self.tight(room)}
            missing = self.missing(room.usable)
            out |= {"missing_bytes": missing} if missing else {}
        out |= {"missing_host_bytes": lacking} if lacking else {}
        pace = None if host is None else pace_of(self, host, flops)
        out |= {} if host is None or pace is None else {"host": host.as_dict(), **pace.as_dict()}
        return out | {"request": self.request.as_dict()}


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
        top.near,
        round(top.gradients),
        found.state,
        round(top.activations),
        round(top.temporaries),
        OVERHEAD[request.device],
        " ".join(map(str, top.stage)),
        work_of(costs.plan, request, None if costs.across is None else costs.across.moved),
        left,
        costs.carried(request),
        round(top.collectives),
    )
