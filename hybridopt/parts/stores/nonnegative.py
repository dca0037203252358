"""Scales of quantized weights, which are never negative."""

from dataclasses import dataclass

import torch

__all__ = ["Nonnegative"]


@dataclass(frozen=True)
class Nonnegative:
    """float32 scales: what would be negative becomes 0 (QZO, Shang et al. 2025, Alg. 1)."""

    random = False
    block = 1
    roles = ("scales",)  # the only ones it may keep

    def fits(self, dtype):
        """float32, as scales are."""
        return dtype == torch.float32

    def write_(self, param, update, decay, seed):
        """Decay, subtract, cut off."""
        param.mul_(decay).sub_(update).clamp_(min=0)

    def put_(self, param, value, seed):
        """Cut off."""
        torch.clamp(value, min=0, out=param)
