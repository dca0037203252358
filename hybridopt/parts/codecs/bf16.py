"""State in bfloat16."""

from dataclasses import dataclass, replace

import torch

from ...core.numerics.rounding import stochastic_bf16

__all__ = ["Bf16"]


@dataclass(frozen=True)
class Bf16:
    """State in bfloat16, rounded stochastically: to nearest, v * 0.999 would never decay. 2 bytes an element."""

    local = True
    random = True

    def raw(self, slot):
        """The slot in bfloat16."""
        return {"": replace(slot, dtype=torch.bfloat16)}

    def load(self, raw, slot):
        """A float copy."""
        return raw[""].to(slot.dtype)

    def store(self, raw, value, slot, seed):
        """Round up or down at random."""
        raw[""].copy_(stochastic_bf16(value, seed))
