"""Weights that are trained as codes: which they are, and the plain tensors that hold them."""

import torch
from torch import Tensor, nn

from ...core.contracts import CodedWeight

__all__ = ["coded_layers", "codes_dtype", "plain"]


def codes_dtype(p: Tensor) -> torch.dtype | None:
    """Return the dtype of the codes that a float parameter is kept as; None for a parameter of plain floats."""
    return p.codes.dtype if isinstance(p, CodedWeight) else None


def coded_layers(model: nn.Module) -> list[str]:
    """Return the names of the layers whose weights are trained as codes."""
    return [n for n, m in model.named_modules() if isinstance(m._parameters.get("weight"), CodedWeight)]


def plain(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return the plain tensors that hold a parameter, by name: itself, or "{name}.{part}" of codes and constants."""
    if not isinstance(tensor, CodedWeight):
        return {name: tensor}
    return {f"{name}.{part}": x for part, x in tensor.parts().items()}
