"""Count bytes of the tensors that are there, not of a plan, and what the device or the process holds."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.system_files import words
from ...model.fsdp.sharded_tensors import local
from ...model.placement.placed import placed
from ...model.quantization.scales import scales
from ...model.quantization.sizes import weight_bytes
from ...model.roles import clean
from ...planning.bytes.static import weights

__all__ = ["gradient_bytes", "held", "measured", "model_bytes", "near", "reset_peak", "state_bytes", "tensor_map"]

STATUS = Path("/proc/self/status")


def model_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and buffers, with the constants that quantized weights need."""
    return weight_bytes(model, *model.buffers())


def gradient_bytes(parameters: Iterable[Tensor]) -> int:
    """Return the bytes of the gradients that are there now; of sharded ones the rows of this rank."""
    return sum(local(p.grad).nbytes for p in parameters if p.grad is not None)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of all tensors in the optimizer's state; of sharded ones the rows of this rank."""
    found = {id(x): local(x) for x in _tensors(optimizer.state)}.values()
    plain = [x.nbytes for x in found if type(x) is Tensor]  # nothing hangs on them, so that no scheme need be asked
    return sum(plain) + weight_bytes(*(x for x in found if type(x) is not Tensor))


def measured(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, int]:
    """Return the bytes of a model's and its optimizer's tensors by the plan's kinds, as they are now.

    Args:
        model: whose parameters and buffers (weights), scales and tables (quantization) and gradients are counted.
        optimizer: whose state is counted; None: there is none yet.

    Returns:
        weights_bytes, quantization_bytes, gradients_bytes and state_bytes, which mean what a
        `hybridopt.planning` Estimate means by them, and so does near_bytes, of a model whose layers rest elsewhere.
        Gradients are those that are alive at the moment.
    """
    rests = placed(model)
    kept = weights(model, () if rests is None else [*(x for unit in rests.units for x in unit.tensors), *rests.aside])
    return near(model) | {
        "weights_bytes": kept.weights,
        "quantization_bytes": kept.quantization,
        "gradients_bytes": gradient_bytes(model.parameters()),
        "state_bytes": 0 if optimizer is None else state_bytes(optimizer),
    }


def near(model: nn.Module) -> dict[str, int]:
    """Return near_bytes, those of layers that rest elsewhere and are near; nothing of a model that is not placed."""
    rests = placed(model)
    return {} if rests is None else {"near_bytes": sum(map(rests.streamer.backend.takes, rests.streamer.near))}


def held(device: torch.device) -> dict[str, int]:
    """Return memory_bytes, what is held now, and peak_bytes, the most that was.

    On a GPU what torch has allocated there, since `reset_peak` or the start of the process. Elsewhere the resident
    set of the whole process, Python and libraries included, since its start; what the system does not tell is left
    out.
    """
    if device.type == "cuda":
        now, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
        return {"memory_bytes": now, "peak_bytes": peak}
    told = _status()
    found = {"memory_bytes": told.get("VmRSS", 0), "peak_bytes": max(0, _most(), *told.values())}
    return {key: size for key, size in found.items() if size}


def reset_peak(device: torch.device) -> None:
    """Let the peak of a GPU begin at what is allocated now; that of a process cannot be set back."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def tensor_map(model: nn.Module) -> list[dict[str, Any]]:
    """Return name, role, tag, shape and bytes of every parameter of a wrapped model.

    Quantized weights count with their constants; a table that several share counts in each. Of sharded ones all rows
    count, of all ranks.
    """
    strategy: Any = model.hybrid
    live: dict[str, Tensor] = {clean(n): p for n, p in model.named_parameters()}
    live |= {clean(n): x for n, _, x in scales(model)}
    return [
        {
            "name": e.param.name,
            "role": e.param.role,
            "tag": e.tag,
            "shape": list(e.param.shape),
            "bytes": weight_bytes(live[e.param.name]),
        }
        for e in strategy.resolved().entries
    ]


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)


def _status() -> dict[str, int]:
    """Return the resident set now and at its largest, in bytes, as Linux tells them."""
    told = {key: words(STATUS, f"{key}:") for key in ("VmRSS", "VmHWM")}
    return {key: int(found[0]) * 1024 for key, found in told.items() if found}


def _most() -> int:
    """Return the largest resident set as every Unix tells it, in bytes; 0 elsewhere."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
