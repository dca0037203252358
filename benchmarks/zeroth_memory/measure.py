"""The bytes and seconds of steps with probes, backward passes or both."""

import torch
from torch import Tensor, nn

import hybridopt

from ..shared.llama_model import set_checkpointing
from ..shared.lost_device import release
from ..shared.peak import measured_step
from ..shared.wrapped import strategy
from .methods import METHODS, Method

STEPS, LR = 3, 1e-7


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return the loss of predicting tokens [count, sequence]."""
    return model(input_ids=tokens, labels=tokens).loss


def one_step(model: nn.Module, optimizer, method: Method, tokens: Tensor) -> dict:
    """Take one step and return the most memory that was taken, and the seconds.

    Args:
        model: is changed.
        optimizer: of the model.
        method: says how many sequences are probed and go backward.
        tokens: token ids [count, sequence].
    """
    short = tokens[: method.backward, : max(2, int(tokens.shape[1] * method.share))]
    rows = tokens[: method.probed]

    def work():
        if method.probed:
            optimizer.probe(lambda: loss_of(model, rows))
        if method.backward:
            loss_of(model, short).backward()
        optimizer.step()
        if tokens.is_cuda:
            torch.cuda.synchronize()

    return measured_step(work, [list(model.parameters()), optimizer], tokens.device.type)


@torch.no_grad()
def forward_alone(model: nn.Module, method: Method, tokens: Tensor) -> dict:
    """Return what the two losses of a probe cost without any shift.

    Args:
        model: which predicts.
        method: says how many sequences are probed.
        tokens: token ids [count, sequence].
    """

    def work():
        for _ in range(2):
            loss_of(model, tokens[: method.probed]).item()

    return measured_step(work, list(model.parameters()), tokens.device.type)


def measure(model: nn.Module, name: str, tokens: Tensor) -> dict:
    """Return bytes and seconds of one method, the best of the steps after the first.

    Args:
        model: just made or unwrapped.
        name: of the method.
        tokens: token ids [count, sequence].
    """
    method = METHODS[name]
    if name == "forward":
        steps = [forward_alone(model, method, tokens) for _ in range(STEPS)]
    else:
        set_checkpointing(model, method.checkpointing)
        hybridopt.wrap(model, policy=method.policy, **method.options)
        optimizer = strategy(model).optimizer(lr=LR, release="fused")
        steps = [one_step(model, optimizer, method, tokens) for _ in range(STEPS)]
    return {
        "peak_bytes": max(step["peak_bytes"] for step in steps[1:]),
        "seconds": min(step["seconds"] for step in steps[1:]),
        "first_seconds": steps[0]["seconds"],
    }


def outcome(model: nn.Module, name: str, tokens: Tensor) -> dict:
    """Return what `measure` says, or why it could not; the other methods go on.

    Args:
        model: is left unwrapped and without gradients.
        name: of the method.
        tokens: token ids [count, sequence].
    """
    try:
        return measure(model, name, tokens)
    except Exception as error:  # too little memory above all: it is the result of this row
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    finally:
        for p in model.parameters():
            p.grad = None
        if hasattr(model, "hybrid"):
            strategy(model).unwrap()
        release(tokens.device.type)
