"""State in blockwise 8 bits."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...core.contracts import Codec, Slot, State
from ...core.errors import check_count
from ...core.numerics.rounding import Seeding, stochastic_round

__all__ = ["Int8"]


@dataclass(frozen=True)
class Int8(Codec):
    """Linear 8 bits with one scale for each block (blockwise: Dettmers et al. 2022), rounded stochastically.

    A slot that is never negative is kept as its square root, and its smallest values at one level above zero: a second
    moment of zero beside a first moment that is not would blow the step up. Slots below `exact_below` elements stay
    exact. 1 + 4 / block bytes an element.
    """

    block: int = 256
    exact_below: int = 4096
    beside = ("_absmax",)
    random = True

    def __post_init__(self) -> None:
        check_count("Int8", "block", self.block, 16, 2**20)  # every slot is padded to whole blocks
        check_count("Int8", "exact_below", self.exact_below, 0)

    def raw(self, slot: Slot) -> dict[str, Slot]:
        """Return codes, int8 or (never negative) uint8, and one scale a block, "_absmax"; small slots as they are."""
        if math.prod(slot.shape) < self.exact_below:
            return {"": slot}
        blocks = -(-math.prod(slot.shape) // self.block)
        return {
            "": Slot(slot.shape, torch.int8 if slot.signed else torch.uint8),
            "_absmax": Slot((blocks,), signed=False),
        }

    def load(self, raw: State, slot: Slot) -> Tensor:
        """Return codes times scales, in the slot's dtype; squared again where they are square roots."""
        codes = raw[""]
        if "_absmax" not in raw:
            return codes
        scale = (raw["_absmax"] / torch.iinfo(codes.dtype).max).unsqueeze(-1)
        x = self._as(codes, self._blocks(codes.to(slot.dtype)) * scale)
        return x if slot.signed else x.square()

    def store(self, raw: State, value: Tensor, slot: Slot, seed: Seeding) -> None:
        """Find new scales, then round to codes at random.

        Args:
            raw: codes and "_absmax", written in place.
            value: float32, shape of the slot.
            slot: says whether it is `signed`.
            seed: of the rounding.
        """
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

    def _blocks(self, x: Tensor) -> Tensor:
        if x.shape[-1:] == (self.block,):  # a block in every row
            return x.view(-1, self.block)
        x = x.flatten()
        return pad(x, (0, -x.numel() % self.block)).view(-1, self.block)

    def _as(self, codes: Tensor, blocks: Tensor) -> Tensor:
        return blocks.flatten()[: codes.numel()].view(codes.shape) if blocks.shape != codes.shape else blocks
