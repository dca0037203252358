"""State in blockwise 8 bits."""

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from ...core.contracts import Slot
from ...core.errors import check_count
from ...core.numerics.rounding import stochastic_round

__all__ = ["Int8"]


@dataclass(frozen=True)
class Int8:
    """Linear 8 bits with one scale for each block (blockwise: Dettmers et al. 2022), rounded stochastically.

    A slot that is never negative is kept as its square root, and its smallest values at one level above zero: a second
    moment of zero beside a first moment that is not would blow the step up. Slots below `exact_below` elements stay
    exact. 1 + 4 / block bytes an element.
    """

    block: int = 256
    exact_below: int = 4096
    beside = ("_absmax",)  # raw tensors with a number for every block
    local = False
    random = True

    def __post_init__(self):
        check_count("Int8", "block", self.block, 16)
        check_count("Int8", "exact_below", self.exact_below, 0)

    def raw(self, slot):
        """Codes and one scale a block."""
        if math.prod(slot.shape) < self.exact_below:
            return {"": slot}
        blocks = -(-math.prod(slot.shape) // self.block)
        return {"": Slot(slot.shape, torch.int8 if slot.signed else torch.uint8), "_absmax": Slot((blocks,))}

    def load(self, raw, slot):
        """Codes times scales; squared again where they are square roots."""
        codes = raw[""]
        if "_absmax" not in raw:
            return codes
        scale = (raw["_absmax"] / torch.iinfo(codes.dtype).max).unsqueeze(-1)
        x = self._as(codes, self._blocks(codes.to(slot.dtype)) * scale)
        return x if slot.signed else x.square()

    def store(self, raw, value, slot, seed):
        """New scales, then codes."""
        codes = raw[""]
        if "_absmax" not in raw:
            if value is not codes:
                codes.copy_(value)
            return
        x = self._blocks(value if slot.signed else value.sqrt())
        absmax = x.abs().amax(-1)
        raw["_absmax"].copy_(absmax)
        top = torch.iinfo(codes.dtype).max
        level = stochastic_round(x * (top / absmax.clamp(min=torch.finfo(x.dtype).tiny)).unsqueeze(-1), seed)
        level = level.clamp(-top, top) if slot.signed else torch.where(x > 0, level.clamp(1, top), 0)
        codes.copy_(self._as(codes, level))

    def _blocks(self, x):
        if x.shape[-1:] == (self.block,):  # a block in every row
            return x.view(-1, self.block)
        x = x.flatten()
        return pad(x, (0, -x.numel() % self.block)).view(-1, self.block)

    def _as(self, codes, blocks):
        return blocks.flatten()[: codes.numel()].view(codes.shape) if blocks.shape != codes.shape else blocks
