"""Layers whose weight other modules read: kept as codes, it would not be what their code takes it for."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .layers import is_linear
from .weight_reads import Read, reads

__all__ = ["read_elsewhere"]

LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)


def read_elsewhere(model: nn.Module, codes: torch.dtype) -> dict[str, str]:
    """Return, by the names of linear layers whose weight another module reads, the class of that module.

    It is looked for in the source of forward passes, since what one pass runs another may not: fused kernels on a
    GPU, fast paths in evaluation.

    Args:
        model: any.
        codes: the dtype of the codes that weights are going to be kept as; code that is prepared for it may stay.
    """
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        kind: Any = type(module)
        for read in reads(kind) if module._modules else ():
            if str(codes).removeprefix("torch.") not in read.expected and read.reached(module):
                found |= {f"{name}.{layer}".lstrip("."): kind.__name__ for layer in _layers(module, read)}
    return found


def _layers(module: nn.Module, read: Read) -> Iterator[str]:
    """Yield the names, within a module, of the linear layers that it may read the weight of."""
    for path in [(name,) for name in sorted(read.others)] if read.path is None else [read.path]:
        owner: Any = module
        for member in path:
            owner = owner._modules.get(member) if isinstance(owner, nn.Module) else None
        inner = owner.named_children() if isinstance(owner, LISTS) and read.path is None else [("", owner)]
        for name, layer in inner:
            if isinstance(layer, nn.Module) and is_linear(layer):
                yield ".".join([*path, name]).rstrip(".")
