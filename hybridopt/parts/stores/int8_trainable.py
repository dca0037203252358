"""Weights kept in 8 bits and trained."""

from dataclasses import dataclass, replace

import torch
from torch.autograd.graph import increment_version

from ...core.numerics.grids import GROUP
from ...core.numerics.rounding import Seed

__all__ = ["Int8Trainable"]

PIECE = 1 << 24  # elements that are float32 at one time


@dataclass(frozen=True)
class Int8Trainable:
    """8-bit codes with a grid for 256 elements in a row (Q-GaLore, Zhang et al. 2024, section 3.4).

    The sum is made in float32, every group gets a new grid, and is rounded up or down at random so that the mean is
    kept: to nearest, updates below half a level (1/255 of a group's range) would be lost.
    """

    random = True
    block = GROUP

    def fits(self, dtype):
        """Only codes: the weights that quantization="int8-trainable" makes."""
        return dtype == torch.uint8

    def write_(self, param, update, decay, seed):
        """Dequantize, add in float32, round: so many whole groups at a time."""
        step = max(1, PIECE // param.shape[-1] // GROUP) * GROUP
        if len(param) <= step:
            return self.put_(param, param.dequantize(update.dtype).mul_(decay).sub_(update), seed)
        seed = seed if isinstance(seed, Seed) else Seed(seed)
        for row in range(0, len(param), step):
            cut, own = slice(row, row + step), replace(seed, row=seed.row + row, tables=None)
            self.write_(param[cut], update[cut], decay, own)

    def put_(self, param, value, seed):
        """A new grid for every group."""
        param.write_(value, seed)
        increment_version(param)
