"""Quantized layers on meta, as `hybridopt.wrap` makes them of real ones."""

import math

import torch
from torch import nn

from ...core.errors import HybridOptError
from ...model.quantization.int8_layers import TRAINABLE
from ...model.roles import params

__all__ = ["quantize_"]


def quantize_(model: nn.Module, scheme: str, opened: bool = False) -> None:
    """Replace the linear layers but the output layer, in place; weights and constants have shapes and no values.

    opened: scales are parameters of their own in float32, as policies have them that train scales.

    Raises HybridOptError if there is nothing to quantize.
    """
    from ...integrations.bitsandbytes import layers as bitsandbytes

    head = sorted({p.name.rpartition(".")[0] for p in params(model) if p.role == "head"})
    names = bitsandbytes.targets(model, scheme, head)
    if not names:
        raise HybridOptError(
            f"quantization={scheme!r}: {type(model).__name__} has no linear layer to quantize; leave it out"
        )
    for name in names:
        layer = _layer(model.get_submodule(name), scheme)
        _open(layer, scheme) if opened else None
        model.set_submodule(name, layer)
    if scheme != TRAINABLE:
        setattr(model, "is_loaded_in_8bit" if scheme == "int8" else "is_loaded_in_4bit", True)  # PEFT looks for it


def _layer(old, scheme):
    if scheme == TRAINABLE:
        from ...model.quantization.int8_layers import planned

        old.weight = nn.Parameter(planned(old.weight), old.weight.requires_grad)
        return old
    transposed = hasattr(old, "nf")  # transformers' Conv1D
    shape = tuple(reversed(old.weight.shape)) if transposed else tuple(old.weight.shape)
    new = _eight_bit(shape) if scheme == "int8" else _four_bit(shape, old.weight.dtype, scheme)
    new.bias = old.bias
    return new


def _four_bit(shape, dtype, scheme):
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn import Linear4bit

    from ...integrations.bitsandbytes.layers import BLOCK, NESTED_BLOCK

    nested, blocks = scheme == "nf4", math.ceil(math.prod(shape) / BLOCK)
    new = Linear4bit(shape[1], shape[0], False, dtype, compress_statistics=nested, quant_type=scheme, device="meta")
    inner = None
    if nested:
        scales = _empty(math.ceil(blocks / NESTED_BLOCK))
        inner = QuantState(absmax=scales, code=_empty(256), blocksize=NESTED_BLOCK, dtype=torch.float32)
    new.weight = nn.Parameter(_empty(math.ceil(math.prod(shape) / 2), 1, dtype=torch.uint8), requires_grad=False)
    new.weight.quant_state = new.quant_state = QuantState(
        absmax=_empty(blocks, dtype=torch.uint8 if nested else torch.float32),
        shape=torch.Size(shape),
        code=_empty(16),
        blocksize=BLOCK,
        quant_type=scheme,
        dtype=dtype,
        offset=_empty() if nested else None,
        state2=inner,
    )
    new.weight.compress_statistics, new.weight.quant_type = nested, scheme  # PEFT looks for them
    new.support_avx512bf16_for_cpu = False
    return new


def _eight_bit(shape):
    from bitsandbytes.nn import Linear8bitLt

    from ...integrations.bitsandbytes.layers import THRESHOLD

    new = Linear8bitLt(shape[1], shape[0], False, False, THRESHOLD, device="meta")
    codes = _empty(*shape, dtype=torch.int8)
    new.weight = nn.Parameter(codes, requires_grad=False)
    new.weight.CB, new.weight.SCB = codes, _empty(shape[0])
    return new


def _open(layer, scheme):
    """As `integrations.scales.open_scales`."""
    if scheme == "int8":
        layer.init_8bit_state()
        layer.state.SCB = nn.Parameter(layer.state.SCB, requires_grad=False)
        return
    state = layer.weight.quant_state
    state.absmax = nn.Parameter(_empty(*state.absmax.shape), requires_grad=False)
    state.nested, state.state2, state.offset = False, None, None


def _empty(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")
