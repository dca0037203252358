"""Sampled rows of inputs: the largest for certain, the rest at random."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....core.contracts import Activations, Uniform, portion
from ....core.errors import HybridOptError, check_share

__all__ = ["WtaCrs"]

LEVELS = 1 << 30  # of row norms: whole numbers add up alike on every device, and up to 4 million of them exactly
WIDE = 8  # times as many outputs as inputs: such an input is small beside all else (the second matrix of LoRA)


@dataclass(frozen=True)
class WtaCrs(Activations):
    """Keep a share of an input's rows, such that the gradient of the weight is right on average (WTA-CRS).

    A row counts by p, its norm's share of all norms. Of k rows the c largest are kept for certain, where c makes
    (1 - p_1 - ... - p_c) / (k - c) least; each of the others is drawn with probability (k - c) p / (1 - p_1 - ... -
    p_c) and divided by that. Draws are stratified, one from each of k - c equal shares of what the certain ones leave,
    which never has more variance than independent ones. Norms of gradients of outputs, which the optimal p has as a
    factor, are left out: they are not known when the rows are chosen.

    Args:
        share: of the rows that are kept, in (0, 1]; at least one row. 1 keeps all, which is exact to the last bit.

    Raises:
        HybridOptError: for any other share.

    Source: Liu et al. 2023, Winner-Take-All Column Row Sampling for Memory Efficient Adaptation of Language Model,
        arXiv 2305.15265, equation 6 and theorem 2.
    """

    share: float = 0.3

    def __post_init__(self) -> None:
        check_share("wta-crs", "share", self.share)
        if self.share == 0:
            raise HybridOptError("share=0 is not allowed; give a number in (0, 1]", "wta-crs")

    def exact(self, rows: int, inputs: int, outputs: int) -> bool:
        """Return whether no row would go, or rows are so short that the layer's input is small beside all else."""
        return portion(self.share, rows) >= rows or outputs > WIDE * inputs

    def keep(self, x: Tensor, uniform: Uniform) -> tuple[Tensor, ...]:
        """Return the rows that are kept, multiplied by what makes up for the others, and where they stood.

        A value that is not finite makes all of them NaN, so that it is not hidden where its row was not drawn.

        Args:
            x: [rows, in].
            uniform: draws as many random numbers as rows are kept.

        Returns:
            Rows [kept, in] in the dtype of x, and their places, int32 [kept].
        """
        norms = torch.linalg.vector_norm(x, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32))
        place, factor = _drawn(_levels(norms), portion(self.share, len(x)), uniform)
        factor = factor.to(norms.dtype) + (norms * 0).sum()
        return (x.index_select(0, place) * factor.unsqueeze(-1)).to(x.dtype), place.to(torch.int32)

    def product(self, kept: Sequence[Tensor], gradient: Tensor) -> Tensor:
        """Return the product of the kept rows and the gradients that belong to them: [out, in].

        Args:
            kept: rows and their places.
            gradient: of the outputs, [rows, out].
        """
        rows, place = kept
        return gradient.index_select(0, place).t().mm(rows)


def _levels(norms: Tensor) -> Tensor:
    """Return norms as whole numbers, at most `LEVELS`, and 0 for a row of zeros alone: int64 [rows]."""
    norms = norms.nan_to_num(0, 0, 0)
    top = norms.amax().clamp(min=torch.finfo(norms.dtype).tiny)
    return (norms / top * LEVELS).ceil().to(torch.int64)


def _drawn(sizes: Tensor, count: int, uniform: Uniform) -> tuple[Tensor, Tensor]:
    """Return which rows are kept, and the factors that make up for the others: int64 and float64 [count].

    No value is read by the host, so that a GPU need not be waited for.

    Args:
        sizes: of the rows: int64 [rows].
        count: of the rows to keep.
        uniform: draws random numbers.
    """
    sizes, order = sizes.sort(descending=True, stable=True)
    sums = sizes.cumsum(0)
    before = sums[:count] - sizes[:count]
    slot = torch.arange(count, device=sizes.device)
    certain = ((sums[-1] - before).to(torch.float64) / (count - slot)).argmin(0, keepdim=True)  # of equal ones, fewest
    start = before.index_select(0, certain)
    each = (sums[-1] - start).to(torch.float64) / (count - certain)  # what one random draw stands for
    wanted = start + ((slot - certain + uniform(count)) * each).to(torch.int64)
    at = torch.where(slot < certain, slot, torch.searchsorted(sums, wanted, right=True)).clamp(max=len(sums) - 1)
    size = sizes.index_select(0, at)
    factor = torch.where(slot < certain, 1.0, each / size.clamp(min=1)) * (size > 0)
    return order.index_select(0, at), factor
