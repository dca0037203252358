"""Linear layers as quantization sees them: a matrix [out, in], whatever way round the layer keeps it."""

import sys
from typing import Any

from torch import Tensor, nn

from ...core.contracts import Shape

__all__ = ["is_linear", "matrix", "matrix_shape"]


def is_linear(layer: nn.Module) -> bool:
    """Return whether `layer` is torch's Linear or transformers' Conv1D itself, no subclass of them."""
    return type(layer) is nn.Linear or _is_conv1d(layer)


def matrix(layer: Any) -> Tensor:
    """Return the weight of a linear layer as [out, in], detached and without a copy."""
    weight = layer.weight.detach()
    return weight.t() if _is_conv1d(layer) else weight


def matrix_shape(layer: Any) -> Shape:
    """Return the shape [out, in] of the weight of a linear layer."""
    return tuple(reversed(layer.weight.shape)) if _is_conv1d(layer) else tuple(layer.weight.shape)


def _is_conv1d(layer: nn.Module) -> bool:
    """Return whether `layer` is transformers' Conv1D, which keeps its weight as [in, out]."""
    library = sys.modules.get("transformers.pytorch_utils")
    return library is not None and type(layer) is library.Conv1D
