"""What codecs of 8 bits with a scale for each block share."""

import math
from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...core.contracts import Codec, Slot, State
from ...core.errors import check_count
from ...core.numerics.rounding import Seeding

__all__ = ["Blockwise"]

LEAST = 2.0**-119  # the highest level over a smaller number would be infinite


class Blockwise(Codec):
    """One scale for each block, and codes of levels; a subclass says which level a value gets, and what one means.

    Blocks of which no value is larger than 2**-119, some 1.5e-36, fade to zero.
    """

    exact_below: int = 0
    beside = ("_absmax",)
    random = True

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_count(owner, "block", self.block, 16, 2**20)  # every slot is padded to whole blocks
        check_count(owner, "exact_below", self.exact_below, 0)

    @abstractmethod
    def _values(self, levels: Tensor, top: int, signed: bool) -> Tensor:
        """Return what levels stand for, in the range of levels: `top` is `top`, and 0 is 0.

        Args:
            levels: whole numbers in [-top, top], or [0, top], as floats.
            top: the highest.
            signed: of the slot.
        """

    @abstractmethod
    def _levels(self, values: Tensor, top: int, signed: bool, seed: Seeding) -> Tensor:
        """Return levels that stand for values, rounded at random.

        Args:
            values: in [-top, top], or [0, top].
            top: the highest level.
            signed: of the slot.
            seed: of the rounding.
        """

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
        """Return what codes stand for, times scales, in the slot's dtype; squared where they are square roots."""
        codes = raw[""]
        if "_absmax" not in raw:
            return codes
        top = torch.iinfo(codes.dtype).max
        scale = (raw["_absmax"] / top).unsqueeze(-1)
        x = self._as(codes, self._values(self._blocks(codes.to(slot.dtype)), top, slot.signed) * scale)
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
        values = x * (top / absmax.clamp(min=LEAST)).unsqueeze(-1)
        level = self._levels(values, top, slot.signed, seed)
        level = level.clamp(-top, top) if slot.signed else torch.where(level > 1, level.clamp(max=top), x > 0)
        codes.copy_(self._as(codes, level))

    def _blocks(self, x: Tensor) -> Tensor:
        if x.shape[-1:] == (self.block,):  # a block in every row
            return x.view(-1, self.block)
        x = x.flatten()
        return pad(x, (0, -x.numel() % self.block)).view(-1, self.block)

    def _as(self, codes: Tensor, blocks: Tensor) -> Tensor:
        return blocks.flatten()[: codes.numel()].view(codes.shape) if blocks.shape != codes.shape else blocks
