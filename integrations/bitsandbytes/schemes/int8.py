"""8-bit codes with a scale for each row."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core.contracts import Make, PackedWeight, Shape
from hybridopt.model.quantization.layers import matrix, matrix_shape

from ..frozen import FrozenScheme, empty, in_its_place, quantized_at_once, silence
from ..loading import Given, check_form, fresh, listen
from ..on_gpu import as_on_gpu, outlier_room, product_room
from ..packed import frozen, row_values

__all__ = ["Int8Scheme"]

THRESHOLD = 6.0  # activations above it are multiplied in full precision (transformers' default)


@dataclass(frozen=True)
class Int8Scheme(FrozenScheme):
    """8-bit codes with the largest magnitude of each row as its scale (LLM.int8(), Dettmers et al. 2022)."""

    name = "int8"
    title = "8-bit"
    bits = 8
    flag = "is_loaded_in_8bit"
    largest = torch.finfo(torch.float16).max  # weights are quantized by way of float16
    codes_dtype = torch.int8
    reentrant = True
    kernels = MappingProxyType(
        {
            "bitsandbytes.int8_scaled_mm.default": product_room,
            "bitsandbytes.int8_vectorwise_quant.default": outlier_room,
        }
    )
    moves_scales = True

    def covers(self, layer: nn.Module, device: torch.device) -> bool:
        """Leave out single input columns on CPUs: torch._int_mm returns garbage for them."""
        return device.type != "cpu" or matrix_shape(layer)[1] > 1

    def quantize(self, layer: Any) -> nn.Module:
        """Return a bitsandbytes Linear8bitLt with the codes of the layer's weight, made a piece at a time."""
        weight = matrix(layer)
        new = _layer(weight.shape)
        new.weight = _weight(*_quantized(weight))
        return in_its_place(new, layer)

    def twin(self, layer: Any) -> nn.Module:
        """Return a Linear8bitLt whose codes and scales are on the meta device."""
        shape = matrix_shape(layer)
        codes = empty(*shape, dtype=torch.int8)
        new = _layer(shape)
        new.weight = nn.Parameter(codes, requires_grad=False)
        new.weight.CB, new.weight.SCB = codes, empty(shape[0])
        return in_its_place(new, layer)

    def assembled(self, layer: Any, kept: Mapping[str, Tensor]) -> nn.Module:
        """Return a Linear8bitLt of these codes and scales."""
        new = _layer(matrix_shape(layer))
        new.weight = _weight(kept["codes"], kept["SCB"])
        return in_its_place(new, layer)

    def packs(self, weight: Tensor) -> bool:
        """Leave out rows of one value: each would need a scale."""
        return weight.shape[-1] > 1

    def pack(self, weight: Tensor) -> PackedWeight:
        """Return a frozen weight with codes in its shape and a scale for each row, along the last dimension."""
        rows = weight.detach().reshape(-1, weight.shape[-1])
        codes, scales = _quantized(rows)
        return frozen(weight, {"codes": codes.view(weight.shape), "SCB": scales}, self)

    def unpack(self, parts: dict[str, Tensor], start: int, shape: Shape, dtype: torch.dtype) -> Tensor:
        """Return values of whole rows, cut to those that are wanted."""
        return row_values(parts, start, shape, dtype)

    def guard_(self, model: nn.Module) -> None:
        """Silence the warning with every product, if the model has 8-bit layers, and let them read state dicts."""
        layers = [m for m in model.modules() if self.holds(m)]
        for layer in layers:
            listen(layer, _load)
        if layers:
            silence()

    def told(self, model: nn.Module) -> dict[str, Any]:
        """Return the number of bits, and the threshold of activations."""
        return {"load_in_8bit": True, "llm_int8_threshold": THRESHOLD}

    def owns(self, weight: Any) -> bool:
        """Return whether `weight` is an Int8Params with codes, or stands for one."""
        if type(weight).__name__ == "Int8Params":
            return not weight.has_fp16_weights
        return weight.dtype == torch.int8 and hasattr(weight, "SCB")

    def parts(self, weight: Any, layer: Any = None) -> dict[str, Tensor]:
        """Return codes and scales ("SCB"), which the first forward pass moves from the weight to the layer."""
        scales = weight.SCB
        if scales is None:
            scales = layer.state.SCB if hasattr(layer, "state") else weight.new_empty(len(weight), dtype=torch.float32)
        return {"codes": weight} | ({"SCB": scales} if isinstance(scales, Tensor) else {})

    def beside(self, layer: Any) -> list[Tensor]:
        """Return codes and scales, wherever they are at the moment."""
        found = (layer.weight.CB, layer.weight.SCB, layer.state.CB, layer.state.SCB)
        return [x for x in found if isinstance(x, Tensor)]

    def carry_(self, old: Any, new: Any, make: Make) -> None:
        """Give `new` codes and scales of its own, where they hang on the weight."""
        new.CB, new.SCB = (make(x) if isinstance(x, Tensor) else None for x in (old.CB, old.SCB))

    def relink_(self, layer: Any, make: Make) -> None:
        """Replace codes and scales where the layer has them."""
        state = layer.state
        state.CB, state.SCB = (make(x) if isinstance(x, Tensor) else None for x in (state.CB, state.SCB))

    def faked(self, device: str) -> AbstractContextManager[object]:
        """Let layers compute as on a GPU, though fake tensors are on the CPU by name."""
        return as_on_gpu() if device == "cuda" else nullcontext()

    def nbytes(self, shape: Shape) -> int:
        """Return a byte for each weight, and 4 for each row."""
        return math.prod(shape) + 4 * math.prod(shape[:-1])

    def scales(self, layer: Any) -> dict[str, Tensor]:
        """Return the scales of the rows, if they are opened."""
        scales = layer.state.SCB
        return {"SCB": scales} if isinstance(scales, nn.Parameter) else {}

    def scale_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return one scale for each row."""
        return {"SCB": (shape[0],)}

    def open_scales_(self, layer: Any) -> None:
        """Move the scales to the layer, as its first forward pass does, and make them a parameter."""
        if layer.weight.CB is not None:
            layer.init_8bit_state()
        if not isinstance(layer.state.SCB, nn.Parameter):
            layer.state.SCB = nn.Parameter(layer.state.SCB, requires_grad=False)


def _layer(shape: Shape) -> Any:
    from bitsandbytes.nn import Linear8bitLt

    return Linear8bitLt(shape[1], shape[0], False, False, THRESHOLD, device="meta")


def _weight(codes: Tensor, scales: Tensor) -> Any:
    from bitsandbytes.nn import Int8Params

    return Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes (int8, [out, in]) and scales (float32, [out]) of a weight [out, in]."""
    from bitsandbytes.functional import int8_vectorwise_quant

    codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scales = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
    if weight.is_meta:
        return codes, scales
    rows = max(quantized_at_once(weight) // weight.shape[1], 1)
    for start in range(0, len(weight), rows):
        part = slice(start, start + rows)
        codes[part], scales[part], _ = int8_vectorwise_quant(weight[part].to(torch.float16))
    return codes, scales


def _load(layer: Any, state: dict[str, Any], prefix: str, local: dict[str, Any], *_: object) -> None:
    """Read codes and scales out of a state dict to where they are now; values in full precision are quantized."""
    shape = (layer.out_features, layer.in_features)
    given = Given.take(state, prefix, local, lambda name: name == "SCB", shape)
    if given is None:
        return
    device, now = layer.weight.device, layer.weight
    if given.dense:
        codes, scales = _quantized(given.weight.detach().to(device))
    else:
        codes, scales = given.weight, given.beside["SCB"]
        form = {"codes": (codes.dtype, tuple(codes.shape)), "scales": tuple(scales.shape)}
        check_form(given.name, form, {"codes": (torch.int8, shape), "scales": shape[:1]})
    state[given.name] = codes
    live = layer.state.SCB if now.SCB is None else now.SCB
    if given.assigned:
        state[given.name] = _weight(fresh(codes, device), fresh(scales, device))
        layer.state.CB = layer.state.SCB = None
    else:
        with torch.no_grad():
            live.copy_(scales)
        for holder in (now, layer.state):
            holder.CB = None if holder.CB is None else now.data  # what is copied into the weight reaches the codes
