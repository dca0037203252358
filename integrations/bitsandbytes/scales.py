"""Opening the scales of bitsandbytes' layers, so that they can be trained while the codes stay (QZO)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hybridopt.core.errors import HybridOptError

from .layers import BLOCK

__all__ = ["open_scales", "planned_scales"]


def open_scales(model: nn.Module) -> None:
    """Make the scales of every 4- and 8-bit layer parameters of their own, which no backward pass reaches.

    Scales of 4-bit weights that were themselves quantized (nf4, "double quantization") become float32, with the same
    values: 4 bytes instead of 1 for 64 weights. What the model computes stays the same to the bit. Raises
    HybridOptError for a model without such layers.
    """
    layers = [m for m in model.modules() if _kind(m)]
    if not layers:
        raise HybridOptError(
            "there are no quantized weights whose scales could be trained: pass quantization='nf4', 'fp4' or 'int8' "
            "to wrap, or give a model that bitsandbytes has quantized"
        )
    for layer in layers:
        (_open_4bit if _kind(layer) == "4bit" else _open_8bit)(layer)


def planned_scales(shapes: Mapping[str, tuple[int, ...]], scheme: str) -> dict[str, Tensor]:
    """By name the scales, on meta, that layers with weights of these shapes will have."""
    if scheme == "int8":
        return {f"{n}.weight.SCB": torch.empty(shape[0], device="meta") for n, shape in shapes.items()}
    blocks = {n: math.ceil(math.prod(shape) / BLOCK) for n, shape in shapes.items()}
    return {f"{n}.weight.absmax": torch.empty(count, device="meta") for n, count in blocks.items()}


def _kind(module):
    weight = module._parameters.get("weight")
    kind = type(weight).__name__
    if kind == "Params4bit":
        return "4bit"
    return "8bit" if kind == "Int8Params" and not weight.has_fp16_weights else None


def _open_4bit(layer):
    from bitsandbytes.functional import dequantize_blockwise

    state = layer.weight.quant_state
    if isinstance(state.absmax, nn.Parameter):
        return
    absmax = state.absmax
    if state.nested:
        absmax = dequantize_blockwise(absmax, state.state2) + state.offset
        state.nested, state.state2, state.offset = False, None, None
        layer.weight.compress_statistics = False
    state.absmax = nn.Parameter(absmax.float(), requires_grad=False)


def _open_8bit(layer):
    if layer.weight.CB is not None:
        layer.init_8bit_state()  # as its first forward pass does
    if not isinstance(layer.state.SCB, nn.Parameter):
        layer.state.SCB = nn.Parameter(layer.state.SCB, requires_grad=False)
