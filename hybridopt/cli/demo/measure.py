"""Count bytes of the tensors that are there, not of a plan."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ...model.quantization.sizes import weight_bytes

__all__ = ["gradient_bytes", "model_bytes", "state_bytes"]


def model_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and buffers, with the constants that quantized weights need."""
    return weight_bytes(model, *model.buffers())


def gradient_bytes(model: nn.Module) -> int:
    """Return the bytes of the gradients that are there now."""
    return sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of all tensors in the optimizer's state."""
    return weight_bytes(*_tensors(optimizer.state))


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
