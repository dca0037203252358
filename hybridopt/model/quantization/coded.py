"""Weights that are kept as codes under their own names: which are trained, and the plain tensors that hold them."""

import torch
from torch import Tensor, nn

from ...core.contracts import PackedWeight
from ..fsdp.coded_shards import parts_of
from ..fsdp.sharded_tensors import coded, is_sharded
from .layers import target

__all__ = ["coded_names", "codes_dtype", "plain"]


def codes_dtype(p: Tensor) -> torch.dtype | None:
    """Return the dtype of the codes that a float parameter is kept as; None for a parameter of plain floats."""
    own = coded(p)
    return None if own is None else own.codes.dtype


def coded_names(model: nn.Module) -> list[str]:
    """Return what `quantize_` calls the weights that are trained as codes."""
    modules = ((n, m, member) for n, m in model.named_modules() for member in m._parameters)
    return [target(n, m, member) for n, m, member in modules if coded(m._parameters[member]) is not None]


def plain(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return the plain tensors that hold a parameter, by name: itself, or "{name}.{part}" of codes and constants.

    Of sharded codes constants are whole on every rank, and all ranks have to come here.
    """
    if coded(tensor) is not None and is_sharded(tensor):
        parts = parts_of(tensor)
    elif isinstance(tensor, PackedWeight):
        parts = tensor.parts()
    else:
        return {name: tensor}
    return {f"{name}.{part}": x for part, x in parts.items()}
