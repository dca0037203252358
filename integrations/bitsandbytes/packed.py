"""Weights that stay in their own modules as codes of bitsandbytes, and are turned back a part at a time."""

import math
from typing import Any

import torch
from torch import Tensor

from hybridopt.core.contracts import Scheme, Shape
from hybridopt.model.quantization.frozen_weight import Form, FrozenWeight

__all__ = ["four_bit_values", "frozen", "row_values"]


def frozen(weight: Tensor, parts: dict[str, Tensor], scheme: Scheme) -> FrozenWeight:
    """Return the weight that stands for another.

    Args:
        weight: in floats.
        parts: what is kept of it.
        scheme: that keeps it.
    """
    return FrozenWeight(parts, Form(scheme, weight.numel(), tuple(weight.shape), weight.dtype))


def row_values(parts: dict[str, Tensor], start: int, shape: Shape, dtype: torch.dtype) -> Tensor:
    """Return values of int8 codes with a scale for each row; see `Scheme.unpack`.

    Args:
        parts: codes, and scales ("SCB").
        start: the first of the values.
        shape: of the values.
        dtype: of the values.
    """
    width, count = parts["codes"].shape[-1], math.prod(shape)
    first, last = start // width, -(-(start + count) // width)
    codes = parts["codes"].view(-1, width)[first:last].to(dtype)
    values = codes.mul_((parts["SCB"][first:last] / 127).unsqueeze(-1))
    return _cut(values, start - first * width, shape)


def four_bit_values(
    parts: dict[str, Tensor], start: int, shape: Shape, dtype: torch.dtype, form: dict[str, Any]
) -> Tensor:
    """Return values of 4-bit codes with a scale for each block; see `Scheme.unpack`.

    Args:
        parts: codes, scales ("absmax") and tables, with those of nested scales ("state2.absmax", "offset").
        start: the first of the values.
        shape: of the values.
        dtype: of the values.
        form: "blocksize" and "quant_type", and "nested_blocksize".
    """
    from bitsandbytes.functional import QuantState, dequantize_4bit

    block, count = form["blocksize"], math.prod(shape)
    first, last = start // block, -(-(start + count) // block)
    codes = parts["codes"][first * block // 2 : last * block // 2]
    held = min(last * block, 2 * len(parts["codes"])) - first * block
    state = QuantState(
        _scales(parts, first, last, form["nested_blocksize"]),
        shape=torch.Size((held,)),
        code=parts["code"],
        blocksize=block,
        quant_type=form["quant_type"],
        dtype=dtype,
    )
    return _cut(dequantize_4bit(codes.view(-1, 1), state), start - first * block, shape)


def _scales(parts: dict[str, Tensor], first: int, last: int, block: int) -> Tensor:
    """Return the scales of blocks, as numbers; nested ones are dequantized, so many whole blocks of them."""
    if "offset" not in parts:
        return parts["absmax"][first:last]
    from bitsandbytes.functional import QuantState, dequantize_blockwise

    low = first // block * block
    outer = parts["state2.absmax"][first // block : -(-last // block)]
    state = QuantState(outer, code=parts["state2.code"], blocksize=block, dtype=torch.float32)
    numbers = dequantize_blockwise(parts["absmax"][low:last], state)
    return numbers.add_(parts["offset"])[first - low :]


def _cut(values: Tensor, skipped: int, shape: Shape) -> Tensor:
    count = math.prod(shape)
    return values.view(-1)[skipped : skipped + count].view(shape)
