"""What a store of weights is asked for."""

from abc import abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from ..numerics.rounding import Seeding

__all__ = ["Store"]


class Store(Protocol):
    """How a weight is kept: the only code that writes to parameters."""

    random: bool = False
    """Does it round at random?"""

    block: int = 1
    """Elements in a row that are written together."""

    roles: tuple[str, ...] | None = None
    """The only roles whose parameters it may keep; None: any."""

    @abstractmethod
    def fits(self, dtype: torch.dtype) -> bool:
        """Return whether it can keep a parameter of this dtype, or codes of it."""

    @abstractmethod
    def write_(self, param: Tensor, update: Tensor, decay: float | Tensor, seed: Seeding) -> None:
        """Write decay * param - update to `param`, computed in the dtype of `update`.

        Args:
            param: the weight, or rows of it.
            update: in its shape, or of shape [].
            decay: 1 - lr * weight decay; a tensor has shape [].
            seed: of random rounding; None where nothing is `random`.
        """

    @abstractmethod
    def put_(self, param: Tensor, value: Tensor, seed: Seeding) -> None:
        """Write `value` to `param`, rounded as `write_` rounds.

        Args:
            param: the weight, or rows of it.
            value: in its shape, float32 or float64.
            seed: of random rounding; None where nothing is `random`.
        """
