"""Weights as quantization sees them: of linear layers a matrix [out, in], and what all of them are called."""

import sys
from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from ...core.contracts import Shape
from ..fsdp.sharded_tensors import class_of

__all__ = ["is_linear", "is_named", "matrix", "matrix_shape", "place", "target"]


def is_linear(layer: nn.Module) -> bool:
    """Return whether `layer` is torch's Linear or transformers' Conv1D itself, no subclass of them."""
    return class_of(layer) is nn.Linear or _is_conv1d(layer)


def matrix(layer: Any) -> Tensor:
    """Return the weight of a linear layer as [out, in], detached and without a copy."""
    weight = layer.weight.detach()
    return weight.t() if _is_conv1d(layer) else weight


def matrix_shape(layer: Any) -> Shape:
    """Return the shape [out, in] of the weight of a linear layer."""
    return tuple(reversed(layer.weight.shape)) if _is_conv1d(layer) else tuple(layer.weight.shape)


def target(path: str, module: nn.Module, member: str) -> str:
    """Return what a weight is called where quantized ones are listed: of a linear layer by the layer's name.

    Args:
        path: name of the module.
        module: that has the weight.
        member: name of the weight in it.
    """
    return path if member == "weight" and is_linear(module) else f"{path}.{member}".lstrip(".")


def place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that has the weight called `name` (by `target`), and the name of the weight in it."""
    path, _, member = name.rpartition(".")
    owner = model.get_submodule(path)
    return (owner, member) if member in owner._parameters else (model.get_submodule(name), "weight")


def is_named(parameter: str, names: Collection[str]) -> bool:
    """Return whether a parameter is among `names`, which are those of weights (by `target`)."""
    return parameter in names or (parameter.endswith(".weight") and parameter.removesuffix(".weight") in names)


def _is_conv1d(layer: nn.Module) -> bool:
    """Return whether `layer` is transformers' Conv1D, which keeps its weight as [in, out]."""
    library = sys.modules.get("transformers.pytorch_utils")
    return library is not None and class_of(layer) is library.Conv1D
