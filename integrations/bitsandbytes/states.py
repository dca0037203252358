"""Codes and states of 4-bit weights as bitsandbytes has them: made, copied, and described without memory."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hybridopt.core.contracts import Make, Shape

from .frozen import empty, quantized_at_once

__all__ = ["BLOCK", "NESTED_BLOCK", "bytes_kept", "empty_codes", "empty_state", "plain_scales"]
__all__ += ["quantized", "remade", "state_of", "tensors_of"]

BLOCK, NESTED_BLOCK = 64, 256  # weights per scale, scales per nested scale
LEVELS, NESTED_LEVELS = 16, 256  # entries of the tables that codes and quantized scales point into


def quantized(weight: Tensor, kind: str, nested: bool) -> tuple[Tensor, Any]:
    """Return what `bitsandbytes.functional.quantize_4bit` makes of a weight, to the bit, but piece by piece.

    Args:
        weight: of any shape.
        kind: of the table of 16 values: "nf4", "fp4".
        nested: quantize the scales in turn?

    Returns:
        The codes, two in a byte: uint8 [bytes, 1]; and a QuantState with scales and tables.
    """
    from bitsandbytes.functional import QuantState, get_4bit_type, quantize_4bit, quantize_blockwise

    flat = weight.reshape(-1)
    codes = torch.empty(((len(flat) + 1) // 2, 1), dtype=torch.uint8, device=flat.device)
    scales = torch.empty(math.ceil(len(flat) / BLOCK), dtype=torch.float32, device=flat.device)
    step = quantized_at_once(flat)
    for start in range(0, len(flat), step):
        made, state = quantize_4bit(flat[start : start + step], quant_type=kind, blocksize=BLOCK)
        codes[start // 2 :][: len(made)] = made
        scales[start // BLOCK :][: len(state.absmax)] = state.absmax
    outer = {}
    if nested:
        offset = scales.mean()
        scales, state2 = quantize_blockwise(scales - offset, blocksize=NESTED_BLOCK)
        outer = {"offset": offset, "state2": state2}
    table = get_4bit_type(kind, device=flat.device)
    form: dict[str, Any] = {
        "shape": weight.shape,
        "dtype": weight.dtype,
        "blocksize": BLOCK,
        "quant_type": kind,
    }
    return codes, QuantState(scales, code=table, **form, **outer)


def empty_codes(shape: Shape) -> Tensor:
    """Return codes for a weight on the meta device."""
    return empty(math.ceil(math.prod(shape) / 2), 1, dtype=torch.uint8)


def bytes_kept(shape: Shape, nested: bool) -> int:
    """Return the bytes of codes, scales and tables of a weight.

    Args:
        shape: of the weight.
        nested: are the scales quantized in turn?
    """
    count = math.prod(shape)
    blocks = math.ceil(count / BLOCK)
    outer = 4 * math.ceil(blocks / NESTED_BLOCK) + 4 + 4 * NESTED_LEVELS  # scales, offset, table
    return math.ceil(count / 2) + 4 * LEVELS + (blocks + outer if nested else 4 * blocks)


def empty_state(shape: Shape, dtype: torch.dtype, kind: str, nested: bool) -> Any:
    """Return a QuantState whose tensors are on the meta device.

    Args:
        shape: of the weight.
        dtype: of its values.
        kind: of the table of 16 values: "nf4", "fp4".
        nested: are the scales quantized in turn?
    """
    from bitsandbytes.functional import QuantState

    blocks, outer = math.ceil(math.prod(shape) / BLOCK), {}
    if nested:
        form = {"code": empty(NESTED_LEVELS), "blocksize": NESTED_BLOCK, "dtype": torch.float32}
        outer = {"offset": empty(), "state2": QuantState(empty(math.ceil(blocks / NESTED_BLOCK)), **form)}
    scales = empty(blocks, dtype=torch.uint8 if nested else torch.float32)
    form = {"shape": torch.Size(shape), "dtype": dtype, "blocksize": BLOCK, "quant_type": kind}
    return QuantState(scales, code=empty(LEVELS), **form, **outer)


def state_of(parts: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype, kind: str) -> Any:
    """Return a QuantState of the tensors that `tensors_of` has named.

    Args:
        parts: those tensors, by name.
        shape: of the weight.
        dtype: of its values.
        kind: of the table of 16 values: "nf4", "fp4".
    """
    from bitsandbytes.functional import QuantState

    outer = {}
    if "offset" in parts:
        form = {"code": parts["state2.code"], "blocksize": NESTED_BLOCK, "dtype": torch.float32}
        outer = {"offset": parts["offset"], "state2": QuantState(parts["state2.absmax"], **form)}
    form = {"shape": torch.Size(shape), "dtype": dtype, "blocksize": BLOCK, "quant_type": kind}
    return QuantState(parts["absmax"], code=parts["code"], **form, **outer)


def tensors_of(state: Any) -> dict[str, Tensor]:
    """Return the tensors of a bitsandbytes QuantState by name; those of nested scales behind "state2."."""
    found: dict[str, Any] = {}
    prefix = ""
    while state is not None:
        found |= {f"{prefix}{name}": getattr(state, name) for name in ("absmax", "code", "offset")}
        prefix, state = f"{prefix}state2.", state.state2
    return {name: part for name, part in found.items() if isinstance(part, Tensor)}


def remade(state: Any, make: Make) -> Any:
    """Return a copy of a bitsandbytes QuantState whose tensors are made anew."""
    from bitsandbytes.functional import QuantState

    members = {name: getattr(state, name) for name in ("shape", "blocksize", "quant_type", "dtype")}
    for name in ("absmax", "code", "offset"):
        members[name] = None if getattr(state, name) is None else make(getattr(state, name))
    return QuantState(**members, state2=None if state.state2 is None else remade(state.state2, make))


def plain_scales(state: Any) -> Tensor:
    """Return the scales as numbers: nested ones are dequantized."""
    if not state.nested:
        return state.absmax
    if state.absmax.is_meta:
        return empty(*state.absmax.shape)
    from bitsandbytes.functional import dequantize_blockwise

    return dequantize_blockwise(state.absmax, state.state2) + state.offset
