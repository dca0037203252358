"""Weights as torch keeps them."""

from dataclasses import dataclass

import torch

__all__ = ["Dense"]


@dataclass(frozen=True)
class Dense:
    """Weights in float64, float32 or float16: summed in the dtype of the arithmetic, rounded to nearest once."""

    random = False
    block = 1

    def fits(self, dtype):
        """Any float of at least fp16's precision; bfloat16 too, for those who ask for nearest rounding."""
        return dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)

    def write_(self, param, update, decay, seed):
        """Decay first, as AdamW does."""
        if param.dtype == update.dtype:
            param.mul_(decay).sub_(update)
        else:
            param.copy_(param.to(update.dtype).mul_(decay).sub_(update))

    def put_(self, param, value, seed):
        """Rounded to nearest."""
        param.copy_(value)
