"""What rules that bring rows or columns of a gradient to one size share."""

import torch
from torch import Tensor

from ...core.contracts import Shape
from ...core.errors import HybridOptError

__all__ = ["check_matrix", "inverse_root"]


def check_matrix(owner: str, shape: Shape) -> None:
    """Raise HybridOptError, naming the rule, unless `shape` is that of a matrix or a stack of them."""
    if len(shape) < 2:
        raise HybridOptError(
            f"{owner} needs a matrix, got shape {tuple(shape)}; take split='columns' or 'rows', or a rule that works "
            "element by element, such as 'signsgd'"
        )


def inverse_root(mean_square: Tensor) -> Tensor:
    """Return 1 / RMS, shape of `mean_square`, finite always, so that zeros times it are zeros.

    Entries below what can be squared (1e-19 in float32) are not brought up to size; squares that overflow give zero.
    """
    return mean_square.clamp(min=torch.finfo(mean_square.dtype).tiny).rsqrt()
