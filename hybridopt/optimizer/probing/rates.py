"""Learning rates and decays as a log keeps them, and what such numbers must be like."""

import torch
from torch import Tensor

from ...core.errors import HybridOptError

__all__ = ["check_rates", "rates_of"]


def rates_of(group: dict) -> tuple[float, float]:
    """Learning rate and decay (1 - lr * weight decay) of a param group, rounded as the update rounds them."""
    return float(group["lr"]), float(1 - group["lr"] * group["weight_decay"])


def check_rates(slopes: Tensor, rates: Tensor, counts: Tensor, groups: int, where: str) -> None:
    """Raise HybridOptError for numbers that no run can have written.

    Args:
        slopes: float32 [steps, samples], all or none of a step NaN.
        rates: float64 [runs, 2 * groups], learning rate and decay of each group in a run of equal steps.
        counts: int32 [runs], steps of each.
        groups: how many param groups there are.
        where: what the message begins with.
    """
    for name, x, dtype in (("slopes", slopes, torch.float32), ("rates", rates, torch.float64)):
        if x.dtype != dtype or x.ndim != 2:
            raise HybridOptError(f"{where}: {name} must be a matrix of {dtype}, not {tuple(x.shape)} of {x.dtype}")
    if counts.dtype != torch.int32 or counts.ndim != 1 or rates.shape != (len(counts), 2 * groups):
        raise HybridOptError(
            f"{where}: rates {tuple(rates.shape)} and counts {tuple(counts.shape)} do not belong to {groups} groups"
        )
    if (counts < 1).any() or counts.sum() != len(slopes):
        raise HybridOptError(f"{where}: counts add up to {int(counts.sum())} steps, slopes are of {len(slopes)}")
    if slopes.isinf().any() or (slopes.isnan().any(1) != slopes.isnan().all(1)).any():
        raise HybridOptError(f"{where}: a slope is infinite, or a step has some slopes that are no numbers")
    if not rates.isfinite().all() or (rates[:, ::2] < 0).any():
        raise HybridOptError(f"{where}: a learning rate or decay is negative or no number")
