"""What a store of weights is asked for."""

from typing import Protocol

import torch
from torch import Tensor

from ..numerics.rounding import Seed

__all__ = ["Store"]


class Store(Protocol):
    """How a weight is kept: the only code that writes to parameters."""

    random: bool  # does it round at random?
    block: int  # elements in a row that are written together

    def fits(self, dtype: torch.dtype) -> bool:
        """Can it keep a parameter of this dtype?"""

    def write_(self, param: Tensor, update: Tensor, decay: float | Tensor, seed: Seed) -> None:
        """param = decay * param - update, computed in the dtype of `update`; `seed` is what rounding needs."""

    def put_(self, param: Tensor, value: Tensor, seed: Seed) -> None:
        """param = value, rounded as `write_` rounds."""
