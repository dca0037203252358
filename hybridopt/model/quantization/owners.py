"""Which scheme keeps a weight, and what that scheme says of it."""

import torch
from torch import Tensor, nn

from ...core.contracts import CodedWeight, PackedWeight, Scheme, Shape
from ...core.registry import every
from ..fsdp.sharded_tensors import is_sharded
from .frozen_weight import FrozenWeight

__all__ = ["is_frozen", "kept_dtype", "layer_scheme", "logical_shape", "owner", "parts", "scheme_of"]


def owner(weight: Tensor | None) -> Scheme | None:
    """Return the scheme that keeps `weight`; None for plain weights and for those of unknown libraries."""
    if weight is None or (type(weight) in (Tensor, nn.Parameter) and weight.is_floating_point() and not vars(weight)):
        return None  # floats that nothing hangs on: no scheme need be asked
    if isinstance(weight, FrozenWeight):
        return weight.form.scheme
    return next((scheme for scheme in every("schemes") if scheme.owns(weight)), None)


def layer_scheme(layer: nn.Module) -> Scheme | None:
    """Return the scheme that keeps the weight of `layer`, of a kind of its own or trained in place.

    None for layers without weight, with a plain one, or with a frozen one that the layer takes for floats.
    """
    weight = layer._parameters.get("weight")
    packed = isinstance(weight, PackedWeight) and not isinstance(weight, CodedWeight)
    return None if packed else owner(weight)


def scheme_of(model: nn.Module) -> str | None:
    """Return the name of the scheme that a model is quantized with, several joined by "+"; None for plain models."""
    found = {scheme.name for p in model.parameters() if (scheme := owner(p)) is not None}
    return "+".join(sorted(found)) or None


def is_frozen(p: Tensor) -> bool:
    """Return whether `p` holds codes that no gradient can reach: those of a frozen scheme, or any that are no floats.

    Weights that are trained as codes are not among them.
    """
    scheme = owner(p)
    return not (p.is_floating_point() or p.is_complex()) if scheme is None else not scheme.trains


def logical_shape(p: Tensor) -> Shape:
    """Return the shape of a parameter; of a quantized one that of the matrix it stands for, before packing."""
    scheme = None if isinstance(p, PackedWeight) else owner(p)
    return tuple(p.shape) if scheme is None else scheme.shape(p)


def kept_dtype(p: Tensor) -> torch.dtype:
    """Return the dtype in which a parameter is kept: that of its codes where these are frozen, or its own."""
    return p.parts()["codes"].dtype if isinstance(p, FrozenWeight) else p.dtype


def parts(p: Tensor, layer: nn.Module | None = None) -> dict[str, Tensor]:
    """Return the plain tensors that `p` consists of, by name: codes and constants, or itself under the name "".

    `layer` is the module that owns `p`: some schemes move constants there.
    """
    if isinstance(p, PackedWeight):
        return p.parts()
    scheme = owner(p)
    if scheme is not None:
        return scheme.parts(p, layer)
    inner = p.__tensor_flatten__()[0] if hasattr(p, "__tensor_flatten__") and not is_sharded(p) else ()
    return {name: getattr(p, name) for name in inner} or {"": p}
