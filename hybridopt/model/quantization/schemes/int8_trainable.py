"""8-bit codes that are trained: hybridopt's own scheme."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ....core.contracts import PackedWeight, Scheme, Shape
from ....core.numerics.grids import GROUP
from ....parts.stores._int8_weight import Int8Weight
from ...fsdp.sharded_tensors import coded, codes_of
from ..packing import pack_
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

    def quantize(self, layer: nn.Module) -> nn.Module:
        """Turn the weight of `layer` into codes; it goes on requiring gradients if it did."""
        pack_(layer, "weight", self)
        return layer

    def twin(self, layer: Any) -> nn.Module:
        """Return a shallow copy of `layer` with codes on the meta device in the place of its weight."""
        old, new = layer.weight, copy.copy(layer)
        codes = Int8Weight.quantize(torch.empty(old.shape, dtype=old.dtype, device="meta"))
        new._parameters = layer._parameters | {"weight": nn.Parameter(codes, old.requires_grad)}
        return new

    def cuts(self, shape: Shape, ranks: int) -> bool:
        """Return whether no group lies on two ranks."""
        rows = math.ceil(shape[0] / ranks)
        return rows == shape[0] or rows * math.prod(shape[1:]) % GROUP == 0

    def packs(self, weight: Tensor) -> bool:
        """Leave out stacks whose matrices are no whole groups: an update could not take them apart."""
        return weight.ndim == 2 or math.prod(weight.shape[1:]) % GROUP == 0

    def pack(self, weight: Tensor) -> PackedWeight:
        """Return codes in the shape of the weight."""
        return Int8Weight.quantize(weight)

    def mark_(self, model: nn.Module) -> None:
        """Let transformers save floats, which it can load again."""
        save_as_floats_(model)

    def unmark_(self, model: nn.Module) -> None:
        """Let transformers save what there is."""
        save_as_codes_(model)

    def owns(self, weight: Tensor) -> bool:
        """Return whether `weight` is one of 8-bit codes with a grid for a group."""
        return isinstance(coded(weight), Int8Weight)

    def parts(self, weight: Any, layer: nn.Module | None = None) -> dict[str, Tensor]:
        """Return codes (uint8, in the weight's shape), scale (float32) and zero (uint8), one for each group."""
        return codes_of(weight).parts()

    def nbytes(self, shape: Shape) -> int:
        """Return a byte for each weight, and 5 for each group of 256."""
        count = math.prod(shape)
        return count + 5 * math.ceil(count / GROUP)
