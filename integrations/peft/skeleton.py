"""Copies of a model's modules without its memory, to try on what would change the model."""

import copy

import torch
from torch import Tensor, nn

from hybridopt.core.errors import HybridOptError
from hybridopt.model.fsdp.units import empty_

from . import tree

__all__ = ["bare_", "filled_", "without_memory"]


def without_memory(model: nn.Module) -> nn.Module:
    """Return a deep copy of `model` with every tensor on the meta device; quantized and sharded ones appear as plain.

    Ties between tensors stay.

    Raises:
        HybridOptError: for a module that cannot be copied.
    """
    with empty_(model):
        return _copy(model)


def _copy(model):
    known: dict[int, object] = {}  # what deepcopy takes for already copied
    for module in model.modules():
        weight = module._parameters.get("weight")
        packed = type(weight) is not nn.Parameter or not weight.is_floating_point()
        if isinstance(module, nn.Linear) and weight is not None and packed:
            known[id(module)] = nn.Linear(module.in_features, module.out_features, module.bias is not None, "meta")
        for tensor in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
            if isinstance(tensor, Tensor):
                known[id(tensor)] = _empty(tensor)
    try:
        return copy.deepcopy(model, known)
    except Exception as error:  # whatever a module's own attributes raise
        raise HybridOptError(
            f"{type(model).__name__} cannot be copied, so it cannot be tried before whether adapters on it can be "
            f"saved: {error!s:.300}; wrap it before its first forward pass"
        ) from error


def filled_(skeleton: nn.Module, step: float) -> nn.Module:
    """Give every parameter of a model without memory values: rows of 0, `step`, 2 * `step` ..., all rows the same one.

    They take the memory of one row, and cannot be written to.
    """
    known: dict[int, nn.Parameter] = {}
    for module in skeleton.modules():
        for name, p in module._parameters.items():
            if p is not None:
                row = torch.arange(p.shape[-1] if p.ndim else 1).mul(step).to(p.dtype)
                values = row.expand(p.shape) if p.ndim else row[0]
                module._parameters[name] = known.setdefault(id(p), nn.Parameter(values, p.requires_grad))
    return skeleton


def bare_(adapted: nn.Module) -> nn.Module:
    """Take all that PEFT has put into a model out of it, and return the model."""
    for module in list(adapted.modules()):
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = tree.inner(child)
    vars(adapted).pop("peft_config", None)
    return adapted


def _empty(tensor: Tensor) -> Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
