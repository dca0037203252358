"""Scales of quantized weights, which are never negative."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.contracts import Store
from ...core.numerics.rounding import Seeding

__all__ = ["Nonnegative"]


@dataclass(frozen=True)
class Nonnegative(Store):
    """float32 scales: what would be negative becomes 0 (QZO, Shang et al. 2025, Alg. 1)."""

    roles = ("scales",)

    def fits(self, dtype: torch.dtype) -> bool:
        """Return whether it is float32, as scales are."""
        return dtype == torch.float32

    def write_(self, param: Tensor, update: Tensor, decay: float | Tensor, seed: Seeding) -> None:
        """Decay, subtract, cut off at 0.

        Args:
            param: float32, written in place.
            update: float32, shape of `param` or [].
            decay: by what the scale is multiplied before.
            seed: not read.
        """
        param.mul_(decay).sub_(update).clamp_(min=0)

    def put_(self, param: Tensor, value: Tensor, seed: Seeding) -> None:
        """Cut a value off at 0.

        Args:
            param: float32, written in place.
            value: float32, shape of `param`.
            seed: not read.
        """
        torch.clamp(value, min=0, out=param)
