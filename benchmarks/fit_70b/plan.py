"""What the planner predicts for the scenarios of fit_70b, by full-size simulation with fake tensors on the CPU."""

from functools import partial

import torch
from torch import nn

from hybridopt.planning import Estimator, Request
from hybridopt.planning.subject.source import subject_of

from .model import ADAPTERS, SIZES
from .scenarios import CONTEXT, SHORT, Scenario


def predict(scenario: Scenario, size: str, device: str, sequence: int) -> dict:
    """Return bytes of a step as an allocator counts them, without the framework's own; or why there are none.

    Args:
        scenario: what is trained, and how.
        size: of the model.
        device: "cpu" or "cuda".
        sequence: tokens.
    """
    try:
        request = Request(
            scenario.policy,
            scenario.options,
            scenario.lora,
            scenario.quantization,
            scenario.release,
            sequence,
            checkpointing=scenario.checkpointing,
            chunk=scenario.chunk,
            device=device,
        )
        found = Estimator(subject_of(SIZES[size]), partial(adapters_, scenario)).estimate(request)
    except Exception as error:  # of whatever kind: it is the result
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    peak = found.peak_bytes - found.overhead_bytes - on_host(scenario, size, device)
    return {"sequence": sequence, "peak_bytes": peak} | {f"{name}_bytes": n for name, n in found.parts.items()}


def longest(scenario: Scenario, size: str, device: str) -> dict:
    """Return the prediction for the longest sequence in the scenario's budget, to one part in a hundred of it.

    The peak is nearly linear in the length: lines through the last two predictions lead there.

    Args:
        scenario: what is trained, and how.
        size: of the model.
        device: "cpu" or "cuda".
    """
    assert scenario.budget is not None  # whoever asks has looked
    room = scenario.budget - CONTEXT
    last, found = (predict(scenario, size, device, sequence) for sequence in SHORT)
    while "failed" not in found | last and not 0.99 * room <= found["peak_bytes"] <= room:
        slope = (found["peak_bytes"] - last["peak_bytes"]) / (found["sequence"] - last["sequence"])
        sequence = int(found["sequence"] + (0.995 * room - found["peak_bytes"]) / slope)
        last, found = found, predict(scenario, size, device, sequence)
    return found


def adapters_(scenario: Scenario, model: nn.Module) -> None:
    """Give the LoRA weights the scenario's dtype."""
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = p.data.to(ADAPTERS[scenario.adapters])


def on_host(scenario: Scenario, size: str, device: str) -> int:
    """Return the bytes of the embedding table where it is not on the device, else 0.

    Args:
        scenario: says where it lies.
        size: of the model.
        device: "cpu" or "cuda".
    """
    if not scenario.host or device == "cpu":
        return 0
    return SIZES[size].vocab_size * SIZES[size].hidden_size * torch.bfloat16.itemsize
