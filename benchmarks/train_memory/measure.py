"""The bytes and seconds of training steps."""

from typing import Any

import torch
from torch import nn

from ..shared.llama_model import bare, set_checkpointing
from ..shared.lost_device import release
from ..shared.peak import measured_step
from ..shared.tensor_bytes import held
from .methods import Method

STEPS = 3  # the first makes the state, and may compile


def build(size: str, device: str) -> nn.Module:
    """Return the model with random weights; what it keeps for the backward pass is up to the method."""
    return bare(size, device)


def measure(model: Any, method: Method, sequence: int) -> dict:
    """Return the bytes and seconds of one method; the model is left without gradients.

    Args:
        model: just made or unwrapped.
        method: what trains it.
        sequence: tokens.
    """
    set_checkpointing(model, method.checkpointing)
    optimizer = method.optimizer(model)
    device = next(model.parameters()).device
    tokens = torch.randint(model.config.vocab_size, (1, sequence), device=device)
    try:
        steps = [one_step(model, optimizer, tokens) for _ in range(STEPS)]
        return {
            "peak_bytes": max(step["peak_bytes"] for step in steps[1:]),
            "first_peak_bytes": steps[0]["peak_bytes"],
            "seconds": min(step["seconds"] for step in steps[1:]),
            "first_seconds": steps[0]["seconds"],
            "loss": steps[-1]["loss"],
            "weight_bytes": held(list(model.parameters())),
            "state_bytes": held(optimizer, model.parameters()),
        }
    finally:
        optimizer.zero_grad(set_to_none=True)


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: torch.Tensor) -> dict:
    """Go forward, backward and update; return the most memory that was taken, the seconds and the loss.

    Args:
        model: is changed.
        optimizer: of the model.
        tokens: token ids [1, sequence].
    """

    def work():
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()  # waits for the device

    return measured_step(work, [list(model.parameters()), optimizer], tokens.device.type)


def outcome(model: Any, method: Method, sequence: int) -> dict:
    """Return what `measure` says, or why it could not; the other methods go on.

    Args:
        model: is left unwrapped, without gradients and state.
        method: what trains it.
        sequence: tokens.
    """
    try:
        return measure(model, method, sequence)
    except Exception as error:  # too little memory above all, and whatever else: it is the result of this row
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    finally:
        torch.compiler.reset()
        if hasattr(model, "hybrid"):
            model.hybrid.unwrap()
        release(next(model.parameters()).device.type)
