"""4-bit codes with a scale for 64 weights: what all schemes of 4 bits share."""

import math
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core.contracts import Make, PackedWeight, Shape
from hybridopt.model.fsdp.sharded_tensors import write_
from hybridopt.model.quantization.layers import matrix, matrix_shape

from .frozen import FrozenScheme, in_its_place
from .loading import Given, check_form, form_of, fresh, listen
from .on_gpu import dense_room, many_tokens_room
from .packed import four_bit_values, frozen
from .repacking import forbid_repacking_
from .sharded import tell_shard_
from .states import (
    BLOCK,
    NESTED_BLOCK,
    bytes_kept,
    empty_codes,
    empty_state,
    plain_scales,
    quantized,
    remade,
    state_of,
    tensors_of,
)

__all__ = ["FourBitScheme"]


class FourBitScheme(FrozenScheme):
    """Two codes in a byte, each an index into a table of 16 values, times the largest magnitude of its 64 weights."""

    nested: bool  # are the scales quantized in turn, to 8 bits ("double quantization", Dettmers et al. 2023)?
    bits = 4
    shards = True
    tables = frozenset({"code", "state2.code"})
    kernels = MappingProxyType({"bitsandbytes.gemm_4bit.default": many_tokens_room})
    cpu_kernels = MappingProxyType({"bitsandbytes.gemm_4bit.default": dense_room})
    flag = "is_loaded_in_4bit"

    def covers(self, layer: nn.Module, device: torch.device) -> bool:
        """Leave out widths of 16 k that are not 64 k on CPUs: the AVX-512 kernel there picks the wrong scales."""
        inputs = matrix_shape(layer)[1]
        return device.type != "cpu" or inputs % 16 > 0 or inputs % BLOCK == 0

    def quantize(self, layer: Any) -> nn.Module:
        """Return a bitsandbytes Linear4bit with the codes of the layer's weight, made a piece at a time."""
        weight = matrix(layer)
        codes, state = quantized(weight, self.name, self.nested)
        new = _layer(weight.shape, weight.dtype, self)
        new.weight = _weight(codes, state, new, self)
        new.quant_state = state
        return in_its_place(new, layer)

    def twin(self, layer: Any) -> nn.Module:
        """Return a Linear4bit whose codes, scales and tables are on the meta device."""
        shape, dtype = matrix_shape(layer), layer.weight.dtype
        new = _layer(shape, dtype, self)
        new.weight = nn.Parameter(empty_codes(shape), requires_grad=False)
        new.weight.quant_state = new.quant_state = empty_state(shape, dtype, self.name, self.nested)
        new.weight.compress_statistics, new.weight.quant_type = self.nested, self.name  # PEFT looks for them
        return in_its_place(new, layer)

    def assembled(self, layer: Any, kept: Mapping[str, Tensor]) -> nn.Module:
        """Return a Linear4bit of these codes, scales and tables."""
        shape = matrix_shape(layer)
        state = state_of(kept, shape, kept["values"].dtype, self.name)
        new = _layer(shape, state.dtype, self)
        new.weight = _weight(kept["codes"], state, new, self)
        new.quant_state = state
        return in_its_place(new, layer)

    def packs(self, weight: Tensor) -> bool:
        """Return True: blocks do not care for shapes."""
        return True

    def pack(self, weight: Tensor) -> PackedWeight:
        """Return a frozen weight with codes, scales and tables of its own."""
        empty = weight.is_meta
        codes = empty_codes(weight.shape) if empty else None
        state = empty_state(weight.shape, weight.dtype, self.name, self.nested) if empty else None
        if codes is None:
            codes, state = quantized(weight.detach(), self.name, self.nested)
        tables = {n: x.clone() if n.endswith("code") else x for n, x in tensors_of(state).items()}
        return frozen(weight, {"codes": codes, **tables}, self)

    def unpack(self, parts: dict[str, Tensor], start: int, shape: Shape, dtype: torch.dtype) -> Tensor:
        """Return values of whole blocks, cut to those that are wanted."""
        form = {"blocksize": BLOCK, "quant_type": self.name, "nested_blocksize": NESTED_BLOCK}
        return four_bit_values(parts, start, shape, dtype, form)

    def values(self, layer: Any, dtype: torch.dtype) -> Tensor:
        """Return the matrix that a layer stands for, with blocks of whatever size it was quantized in."""
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)

    def guard_(self, model: nn.Module) -> None:
        """Keep evaluation on CPUs from repacking the weights for inference, and let layers read state dicts."""
        forbid_repacking_(model)
        for layer in model.modules():
            tell_shard_(layer, self.name)
            if self.holds(layer):
                listen(layer, self.load)

    def told(self, model: nn.Module) -> dict[str, Any]:
        """Return the number of bits, the table, and the dtype of the arithmetic, which is that of most layers."""
        layers: list[Any] = [m for m in model.modules() if self.holds(m)]
        dtypes = Counter(layer.compute_dtype for layer in layers)
        return {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": self.name,
            "bnb_4bit_use_double_quant": self.nested,
            "bnb_4bit_compute_dtype": dtypes.most_common(1)[0][0],
        }

    def owns(self, weight: Tensor) -> bool:
        """Return whether `weight` is a Params4bit, or stands for one, with this table of values."""
        state = getattr(weight, "quant_state", None)
        return getattr(weight if state is None else state, "quant_type", None) == self.name

    def shape(self, weight: Any) -> Shape:
        """Return the shape before two codes were packed into a byte."""
        state = weight.quant_state
        return tuple(weight.shape if state is None else state.shape)

    def parts(self, weight: Any, layer: nn.Module | None = None) -> dict[str, Tensor]:
        """Return codes, scales ("absmax") and table; of nested scales their offset, scales and table, too."""
        return {"codes": weight, **tensors_of(weight.quant_state)}

    def beside(self, layer: Any) -> list[Tensor]:
        """Return scales, tables and offset."""
        return list(self.parts(layer.weight).values())[1:]

    def carry_(self, old: Any, new: Any, make: Make) -> None:
        """Give `new` a state of its own, with the same table and scales."""
        new.quant_state = None if old.quant_state is None else remade(old.quant_state, make)

    def relink_(self, layer: Any, make: Make) -> None:
        """Let the layer have the state of its weight."""
        layer.quant_state = layer.weight.quant_state

    def faked(self, device: str) -> AbstractContextManager[object]:
        """Fill a table that bitsandbytes makes once, by reading values, and keeps: it has to be a real one."""
        functional = sys.modules.get("bitsandbytes.functional")
        if functional is not None and "dynamic" not in functional.name2qmap:
            functional.name2qmap["dynamic"] = functional.create_dynamic_map()
        return nullcontext()

    def kept(self, layer: Any) -> dict[str, Tensor]:
        """Return codes, scales and tables, and the dtype in which values are worked out ("values", no elements)."""
        values = torch.empty(0, dtype=layer.weight.quant_state.dtype, device=layer.weight.device)
        return super().kept(layer) | {"values": values}

    def restore_(self, layer: Any, kept: Mapping[str, Tensor]) -> None:
        """Write codes, and put tensors of its own into the state: bitsandbytes shares some tables between weights."""
        weight = layer.weight
        for name, x in kept.items():
            *path, last = name.split(".")
            x = x.to(weight.device)
            if name == "codes":
                write_(weight, x)
            elif name == "values":
                weight.quant_state.dtype = x.dtype
            else:
                setattr(weight.quant_state.state2 if path else weight.quant_state, last, x)
        layer.quant_state = weight.quant_state

    def load(self, layer: Any, state: dict[str, Any], prefix: str, local: dict[str, Any], *_: object) -> None:
        """Read codes and scales of `layer` out of a state dict; values in full precision are quantized.

        Args:
            layer: of this scheme.
            state: the state dict.
            prefix: of the names of the layer in it.
            local: what torch says of this loading.
        """
        now, shape = layer.weight, (layer.out_features, layer.in_features)
        given = Given.take(state, prefix, local, lambda name: name.startswith("weight."), shape)
        if given is None:
            return
        if given.dense:
            dense = given.weight.detach().to(now.device, now.quant_state.dtype)
            codes, new = quantized(dense, self.name, self.nested)
        else:
            codes, new = given.weight, remade(given.state(), lambda x: fresh(x, now.device))
            check_form(given.name, form_of(codes, new), form_of(now, now.quant_state) | {"shape": shape})
        if (scales := self.scales(layer).get("absmax")) is not None:
            scales.data.copy_(plain_scales(new))
            new.absmax, new.nested, new.state2, new.offset = scales, False, None, None
        state[given.name] = _weight(fresh(codes, now.device), new, layer, self) if given.assigned else codes
        layer.quant_state = now.quant_state = new
        now.compress_statistics = new.nested

    def nbytes(self, shape: Shape) -> int:
        """Return the bytes of codes, scales and tables."""
        return bytes_kept(shape, self.nested)

    def scales(self, layer: Any) -> dict[str, Tensor]:
        """Return the scales of the blocks, if they are opened."""
        state = layer.weight.quant_state
        absmax = None if state is None else state.absmax
        return {"absmax": absmax} if isinstance(absmax, nn.Parameter) else {}

    def scale_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return one scale for each block of the flattened weight."""
        return {"absmax": (math.ceil(math.prod(shape) / BLOCK),)}

    def open_scales_(self, layer: Any) -> None:
        """Make the scales a float32 parameter; nested ones become what they stand for, 4 bytes instead of 1."""
        state = layer.weight.quant_state
        if isinstance(state.absmax, nn.Parameter):
            return
        state.absmax = nn.Parameter(plain_scales(state).float(), requires_grad=False)
        if state.nested:
            state.nested, state.state2, state.offset = False, None, None
            layer.weight.compress_statistics = False


def _layer(shape: Shape, dtype: torch.dtype, scheme: FourBitScheme) -> Any:
    from bitsandbytes.nn import Linear4bit

    new = Linear4bit(shape[1], shape[0], False, dtype, scheme.nested, scheme.name, device="meta")
    new.support_avx512bf16_for_cpu = False  # see `forbid_repacking_`
    return new


def _weight(codes: Tensor, state: Any, layer: nn.Module, scheme: FourBitScheme) -> Any:
    from bitsandbytes.nn import Params4bit

    form: dict[str, Any] = {
        "compress_statistics": state.nested,
        "quant_type": scheme.name,
        "module": layer,
        "bnb_quantized": True,
    }
    return Params4bit(codes, requires_grad=False, quant_state=state, **form)
