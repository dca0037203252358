"""Copies of a model's modules without its memory, to try on what would change the model."""

import copy

import torch
from torch import Tensor, nn

__all__ = ["without_memory"]


def without_memory(model: nn.Module) -> nn.Module:
    """Return a deep copy of `model` with every tensor on the meta device; quantized layers appear as plain ones.

    Ties between tensors stay. A module that cannot be copied raises what `copy.deepcopy` raises.
    """
    known: dict[int, object] = {}  # what deepcopy takes for already copied
    for module in model.modules():
        weight = module._parameters.get("weight")
        if isinstance(module, nn.Linear) and type(weight) not in (nn.Parameter, type(None)):
            known[id(module)] = nn.Linear(module.in_features, module.out_features, module.bias is not None, "meta")
        for tensor in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
            if isinstance(tensor, Tensor):
                known[id(tensor)] = _empty(tensor)
    return copy.deepcopy(model, known)


def _empty(tensor: Tensor) -> Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
