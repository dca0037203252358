"""Weights kept in 8 bits and trained."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ...core.contracts import Store
from ...core.numerics.grids import GROUP
from ...core.numerics.rounding import Seeding, as_seed
from ._int8_codes import Int8Codes
from ._int8_weight import Int8Weight

__all__ = ["Int8Trainable"]

PIECE = 1 << 24  # elements that are float32 at one time


@dataclass(frozen=True)
class Int8Trainable(Store):
    """8-bit codes with a grid for 256 elements in a row (Q-GaLore, Zhang et al. 2024, section 3.4).

    The sum is made in float32, every group gets a new grid, and is rounded up or down at random so that the mean is
    kept: to nearest, updates below half a level (1/255 of a group's range) would be lost.
    """

    random = True
    block = GROUP

    def fits(self, dtype: torch.dtype) -> bool:
        """Return whether it is that of codes: of the weights that quantization="int8-trainable" makes."""
        return dtype == torch.uint8

    def write_(self, param: Tensor | Int8Codes, update: Tensor, decay: float | Tensor, seed: Seeding) -> None:
        """Dequantize, add in float32, round at random: so many whole groups at a time.

        Args:
            param: an Int8Weight [m, n], written in place; within a kernel its `Int8Codes`, in one piece.
            update: float32, shape of `param`.
            decay: by what the weight is multiplied before.
            seed: of the rounding.
        """
        if isinstance(param, Int8Codes):
            return self.put_(param, param.dequantize(update.dtype).mul_(decay).sub_(update), seed)
        assert isinstance(param, Int8Weight)
        step = max(1, PIECE // param.shape[-1] // GROUP) * GROUP
        if len(param) <= step:
            return self.put_(param, param.dequantize(update.dtype).mul_(decay).sub_(update), seed)
        seed = as_seed(seed)
        for row in range(0, len(param), step):
            cut, own = slice(row, row + step), replace(seed, row=seed.row + row, tables=None)
            self.write_(param[cut], update[cut], decay, own)

    def put_(self, param: Tensor | Int8Codes, value: Tensor, seed: Seeding) -> None:
        """Make a new grid for every group, and round to it at random.

        Args:
            param: an Int8Weight [m, n], or its `Int8Codes`, written in place.
            value: float32, shape of `param`.
            seed: of the rounding.
        """
        assert isinstance(param, Int8Weight | Int8Codes)
        param.write_(value, seed)
        if isinstance(param, Int8Weight):
            increment_version(param)
