"""Linear layers whose weights are kept as 8-bit codes and trained: made, taken back, and as plain tensors."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ...parts.stores._int8_weight import Int8Weight

__all__ = ["TRAINABLE", "dequantize_", "int8_layers", "plain", "planned", "quantize_"]

TRAINABLE = "int8-trainable"  # the name of the scheme


def quantize_(model: nn.Module, names: Iterable[str]) -> None:
    """Turn the weights of the named layers into codes, in place and one by one; modules and names stay.

    `state_dict` then holds plain tensors, "weight.codes", "weight.scale" and "weight.zero", and takes them or a float
    "weight".
    """
    for name in names:
        layer = model.get_submodule(name)
        layer.weight = nn.Parameter(Int8Weight.quantize(layer.weight), layer.weight.requires_grad)
        layer.register_state_dict_post_hook(_unfold)
        layer.register_load_state_dict_pre_hook(_fold)


def dequantize_(model: nn.Module) -> None:
    """Turn all codes back into float parameters of the layer's dtype, in place and one by one.

    The old parameters stop requiring gradients, so that an optimizer that still holds them says so.
    """
    for name in int8_layers(model):
        layer = model.get_submodule(name)
        old = layer.weight
        layer.weight = nn.Parameter(old.detach().dequantize(), old.requires_grad)
        old.requires_grad_(False)
        for hooks, own in ((layer._state_dict_hooks, _unfold), (layer._load_state_dict_pre_hooks, _fold)):
            for key in [k for k, hook in hooks.items() if getattr(hook, "hook", hook) is own]:
                del hooks[key]


def int8_layers(model: nn.Module) -> list[str]:
    """Names of the layers whose weights are codes."""
    return [n for n, m in model.named_modules() if isinstance(m._parameters.get("weight"), Int8Weight)]


def plain(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A parameter as the plain tensors that hold it, by name: itself, or its codes with their constants."""
    if not isinstance(tensor, Int8Weight):
        return {name: tensor}
    return {f"{name}.{part}": x for part, x in tensor.parts().items()}


def planned(weight: Tensor) -> Tensor:
    """What the codes of a float weight will be like; without memory."""
    return Int8Weight.quantize(torch.empty(weight.shape, dtype=weight.dtype, device="meta"))


def _unfold(layer, state, prefix, _):
    """Codes with their constants instead of the weight, which is no plain tensor."""
    weight = state.pop(f"{prefix}weight", None)
    if weight is not None:
        state |= plain(f"{prefix}weight", weight)


def _fold(layer, state, prefix, *_):
    """The weight instead of its codes with their constants."""
    parts = {part: state.pop(f"{prefix}weight.{part}", None) for part in layer.weight.parts()}
    if all(x is not None for x in parts.values()):
        state[f"{prefix}weight"] = Int8Weight(**parts, dtype=layer.weight.dtype)
