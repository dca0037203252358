"""State in blockwise 8 bits with finer levels for small values."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.numerics.rounding import Seeding, random_bits
from ._blockwise import Blockwise

__all__ = ["Companded8"]


@dataclass(frozen=True)
class Companded8(Blockwise):
    """8 bits with one scale for each block, companded before rounding (FlashOptim, Gonzalez Ortiz et al. 2026).

    Of signed slots the share u of the block's largest value is kept as 2 u / (1 + u), so that levels are half as far
    apart at zero as with `int8`, and twice as far at the largest value. Rounded at random between the two levels
    beside it, so that the mean is kept. Slots that are never negative are kept as their square root, as by `int8`,
    their smallest values at one level above zero. Slots below `exact_below` elements stay exact. 1 + 4 / block bytes
    an element.
    """

    block: int = 128
    exact_below: int = 4096

    def _values(self, levels: Tensor, top: int, signed: bool) -> Tensor:
        return levels * top / (2 * top - levels.abs()) if signed else levels

    def _levels(self, values: Tensor, top: int, signed: bool, seed: Seeding) -> Tensor:
        size = values.abs()
        low = (2 * top * size / (top + size) if signed else size).floor().clamp(max=top - 1)
        below, above = (self._values(x, top, signed) for x in (low, low + 1))
        up = (size - below) / (above - below) > random_bits(values, seed) * (1 / 65536)
        return torch.where(up, low + 1, low).copysign(values)
