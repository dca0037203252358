"""State in bfloat16."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.contracts import Codec, Slot, State
from ...core.numerics.rounding import Seeding, stochastic_bf16

__all__ = ["Bf16"]


@dataclass(frozen=True)
class Bf16(Codec):
    """State in bfloat16, rounded stochastically: to nearest, v * 0.999 would never decay. 2 bytes an element."""

    local = True
    random = True

    def raw(self, slot: Slot) -> dict[str, Slot]:
        """Return the slot in bfloat16."""
        return {"": replace(slot, dtype=torch.bfloat16)}

    def load(self, raw: State, slot: Slot) -> Tensor:
        """Return a copy in the slot's dtype."""
        return raw[""].to(slot.dtype)

    def store(self, raw: State, value: Tensor, slot: Slot, seed: Seeding) -> None:
        """Round up or down at random.

        Args:
            raw: bfloat16, written in place.
            value: float32, shape of the slot.
            slot: not read.
            seed: of the rounding.
        """
        raw[""].copy_(stochastic_bf16(value, seed))
