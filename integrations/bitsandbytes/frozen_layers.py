"""Frozen layers of bitsandbytes, made of plain ones a piece of the weight at a time."""

import math
import sys

import torch
from torch import Tensor, nn

from hybridopt.core.numerics.grids import piece

__all__ = ["BLOCK", "NESTED_BLOCK", "THRESHOLD", "frozen", "is_conv1d"]

THRESHOLD = 6.0  # int8: activations above it are multiplied in full precision (transformers' default)
BLOCK, NESTED_BLOCK = 64, 256  # 4-bit: weights per scale, scales per nested scale
PIECE = 1 << 20  # weights quantized at a time on CPUs at most, where that takes up to 28 bytes for each


def frozen(module: nn.Module, scheme: str) -> nn.Module:
    """The layer of `scheme` ("nf4", "fp4" or "int8") with the codes of a plain one's weight, and the same bias."""
    weight = module.weight.detach().t() if is_conv1d(module) else module.weight.detach()
    new = _eight_bit(weight) if scheme == "int8" else _four_bit(weight, scheme)
    new.bias = module.bias
    return new.train(module.training)


def is_conv1d(module: nn.Module) -> bool:
    """Is it transformers' `Conv1D`, a linear layer with a transposed weight?"""
    library = sys.modules.get("transformers.pytorch_utils")
    return library is not None and type(module) is library.Conv1D


def _four_bit(weight: Tensor, scheme: str) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    codes, state = _four_bit_codes(weight, scheme)
    new = Linear4bit(weight.shape[1], weight.shape[0], False, weight.dtype, state.nested, scheme, device="meta")
    form = {"compress_statistics": state.nested, "quant_type": scheme, "module": new, "bnb_quantized": True}
    new.weight = Params4bit(codes, requires_grad=False, quant_state=state, **form)
    new.quant_state = state
    new.support_avx512bf16_for_cpu = False  # see `bitsandbytes.guard`
    return new


def _four_bit_codes(weight: Tensor, scheme: str) -> tuple[Tensor, object]:
    """What `bitsandbytes.functional.quantize_4bit` makes of a weight, to the bit, but piece by piece."""
    from bitsandbytes.functional import QuantState, get_4bit_type, quantize_4bit, quantize_blockwise

    flat = weight.reshape(-1)
    codes = torch.empty(((len(flat) + 1) // 2, 1), dtype=torch.uint8, device=flat.device)
    scales = torch.empty(math.ceil(len(flat) / BLOCK), dtype=torch.float32, device=flat.device)
    step = _piece(flat)
    for start in range(0, len(flat), step):
        made, state = quantize_4bit(flat[start : start + step], quant_type=scheme, blocksize=BLOCK)
        codes[start // 2 :][: len(made)] = made
        scales[start // BLOCK :][: len(state.absmax)] = state.absmax
    nested = {}
    if scheme == "nf4":
        offset = scales.mean()
        scales, outer = quantize_blockwise(scales - offset, blocksize=NESTED_BLOCK)
        nested = {"offset": offset, "state2": outer}
    table = get_4bit_type(scheme, device=flat.device)
    shaped = {"shape": weight.shape, "dtype": weight.dtype, "blocksize": BLOCK, "quant_type": scheme}
    return codes, QuantState(scales, code=table, **shaped, **nested)


def _eight_bit(weight: Tensor) -> nn.Module:
    from bitsandbytes.functional import int8_vectorwise_quant
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scales = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
    rows = max(_piece(weight) // weight.shape[1], 1)
    for start in range(0, len(weight), rows):
        part = slice(start, start + rows)
        codes[part], scales[part], _ = int8_vectorwise_quant(weight[part].to(torch.float16))
    new = Linear8bitLt(weight.shape[1], weight.shape[0], False, False, THRESHOLD, device="meta")
    new.weight = Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)
    return new


def _piece(weight: Tensor) -> int:
    """Weights to quantize at a time; on GPUs one kernel does it without working room."""
    return piece(weight.numel(), PIECE) if weight.device.type == "cpu" else weight.numel()
