"""bfloat16 weights with stochastic rounding."""

from dataclasses import dataclass

import torch

from ...core.numerics.rounding import stochastic_bf16

__all__ = ["Bf16Stochastic"]


@dataclass(frozen=True)
class Bf16Stochastic:
    """bfloat16 weights: the sum is made in float32, then rounded up or down at random so that the mean is kept.

    Rounding to nearest loses 85 % of a sign update of 1e-5 on weights of 0.02.
    """

    random = True
    block = 1

    def fits(self, dtype):
        """Only bfloat16."""
        return dtype == torch.bfloat16

    def write_(self, param, update, decay, seed):
        """Add in float32, then round."""
        self.put_(param, param.float().mul_(decay).sub_(update), seed)

    def put_(self, param, value, seed):
        """Rounded up or down at random."""
        param.copy_(stochastic_bf16(value, seed))
