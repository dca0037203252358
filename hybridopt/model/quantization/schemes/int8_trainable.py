"""8-bit codes that are trained: hybridopt's own scheme."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ....core.contracts import Scheme, Shape
from ....core.numerics.grids import GROUP
from ....parts.stores._int8_weight import Int8Weight
from ..coded import plain
from ._as_floats import save_as_codes_, save_as_floats_

__all__ = ["Int8TrainableScheme"]


@dataclass(frozen=True)
class Int8TrainableScheme(Scheme):
    """8-bit codes with a grid for 256 weights in a row, trained by the store of that name (Q-GaLore, section 3.4).

    Modules and names stay. `state_dict` then holds plain tensors, "weight.codes", "weight.scale" and "weight.zero",
    and takes them or a float "weight"; `save_pretrained` of transformers writes that, scale and zero.
    """

    name = "int8-trainable"
    title = "8-bit"
    bits = 8
    trains = True
    in_place = True
    values_seen = True

    def quantize(self, layer: Any) -> nn.Module:
        """Turn the weight of `layer` into codes; it goes on requiring gradients if it did."""
        layer.weight = nn.Parameter(Int8Weight.quantize(layer.weight), layer.weight.requires_grad)
        layer.register_state_dict_post_hook(_unfold)
        layer.register_load_state_dict_pre_hook(_fold)
        return layer

    def twin(self, layer: Any) -> nn.Module:
        """Return a shallow copy of `layer` with codes on the meta device in the place of its weight."""
        old, new = layer.weight, copy.copy(layer)
        codes = Int8Weight.quantize(torch.empty(old.shape, dtype=old.dtype, device="meta"))
        new._parameters = layer._parameters | {"weight": nn.Parameter(codes, old.requires_grad)}
        return new

    def mark_(self, model: nn.Module) -> None:
        """Let transformers save floats, which it can load again."""
        save_as_floats_(model)

    def unmark_(self, model: nn.Module) -> None:
        """Let transformers save what there is."""
        save_as_codes_(model)

    def owns(self, weight: Tensor) -> bool:
        """Return whether `weight` is one of 8-bit codes with a grid for a group."""
        return isinstance(weight, Int8Weight)

    def parts(self, weight: Any, layer: nn.Module | None = None) -> dict[str, Tensor]:
        """Return codes (uint8, in the weight's shape), scale (float32) and zero (uint8), one for each group."""
        return weight.parts()

    def nbytes(self, shape: Shape) -> int:
        """Return a byte for each weight, and 5 for each group of 256."""
        count = math.prod(shape)
        return count + 5 * math.ceil(count / GROUP)

    def dequantize_(self, layer: Any) -> None:
        """Turn the codes back into a float parameter of the layer's dtype.

        The old parameter stops requiring gradients, so that an optimizer that still holds it says so.
        """
        old = layer.weight
        layer.weight = nn.Parameter(old.detach().dequantize(), old.requires_grad)
        old.requires_grad_(False)
        for hooks, own in ((layer._state_dict_hooks, _unfold), (layer._load_state_dict_pre_hooks, _fold)):
            for key in [k for k, hook in hooks.items() if getattr(hook, "hook", hook) is own]:
                del hooks[key]


def _unfold(layer, state, prefix, _):
    """Put codes and constants into a state dict instead of the weight, which is no plain tensor."""
    weight = state.pop(f"{prefix}weight", None)
    if weight is not None:
        state |= plain(f"{prefix}weight", weight)


def _fold(layer, state, prefix, *_):
    """Put the weight into a state dict instead of its codes, or floats, and constants."""
    name, dtype = f"{prefix}weight", layer.weight.dtype
    codes, scale, zero = (state.pop(f"{name}.{part}", None) for part in ("codes", "scale", "zero"))
    if scale is None or zero is None:
        return
    if codes is not None:
        state[name] = Int8Weight(codes, scale, zero, dtype)
    elif name in state:
        state[name] = Int8Weight.on_grids(state[name].to(dtype), scale, zero)
