"""bfloat16 weights with stochastic rounding."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.contracts import Store
from ...core.numerics.rounding import Seeding, stochastic_bf16

__all__ = ["Bf16Stochastic"]


@dataclass(frozen=True)
class Bf16Stochastic(Store):
    """bfloat16 weights: the sum is made in float32, then rounded up or down at random so that the mean is kept.

    Rounding to nearest loses 85 % of a sign update of 1e-5 on weights of 0.02.
    """

    random = True

    def fits(self, dtype: torch.dtype) -> bool:
        """Return whether it is bfloat16."""
        return dtype == torch.bfloat16

    def write_(self, param: Tensor, update: Tensor, decay: float | Tensor, seed: Seeding) -> None:
        """Add in float32, then round up or down at random.

        Args:
            param: bfloat16, written in place.
            update: float32, shape of `param` or [].
            decay: by what the weight is multiplied before.
            seed: of the rounding.
        """
        self.put_(param, param.float().mul_(decay).sub_(update), seed)

    def put_(self, param: Tensor, value: Tensor, seed: Seeding) -> None:
        """Round a value up or down at random.

        Args:
            param: bfloat16, written in place.
            value: float32, shape of `param`.
            seed: of the rounding.
        """
        param.copy_(stochastic_bf16(value, seed))
