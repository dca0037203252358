"""Weights as torch keeps them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.contracts import Store
from ...core.numerics.rounding import Seeding

__all__ = ["Dense"]


@dataclass(frozen=True)
class Dense(Store):
    """Weights in float64, float32 or float16: summed in the dtype of the arithmetic, rounded to nearest once."""

    def fits(self, dtype: torch.dtype) -> bool:
        """Return whether it is a float type; bfloat16 too, for those who ask for nearest rounding."""
        return dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)

    def write_(self, param: Tensor, update: Tensor, decay: float | Tensor, seed: Seeding) -> None:
        """Decay first, as AdamW does, then subtract; rounded to nearest once.

        Args:
            param: any float type, written in place.
            update: float32 or float64, shape of `param` or [].
            decay: by what the weight is multiplied before.
            seed: not read.
        """
        if param.dtype == update.dtype:
            param.mul_(decay).sub_(update)
        else:
            param.copy_(param.to(update.dtype).mul_(decay).sub_(update))

    def put_(self, param: Tensor, value: Tensor, seed: Seeding) -> None:
        """Round a value to nearest.

        Args:
            param: any float type, written in place.
            value: shape of `param`.
            seed: not read.
        """
        param.copy_(value)
