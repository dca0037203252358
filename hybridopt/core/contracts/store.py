"""What a store of weights is asked for."""

from abc import abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from ..numerics.rounding import Seeding
from .values import Shape, Slot, State

__all__ = ["Store"]


class Store(Protocol):
    """How a weight is kept: the only code that writes to parameters."""

    random: bool = False
    """Does it round at random?"""

    block: int = 1
    """Elements in a row that are written together."""

    roles: tuple[str, ...] | None = None
    """The only roles whose parameters it may keep; None: any."""

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Return what of a weight of `shape` lies in the optimizer's state, by name; zeros at first, none by default.

        All have the weight's shape, and are cut with it. They are the weight's, and outlast every window.
        """
        return {}

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

    def write_beside_(
        self, param: Tensor, beside: State, update: Tensor, decay: float | Tensor, seed: Seeding
    ) -> None:
        """Write decay * param - update to a weight of which `slots` holds a part; without slots as `write_` does.

        Args:
            param: the weight, or rows of it.
            beside: the slots by name, or the same rows of them; changed in place.
            update: in the shape of `param`, or of shape [].
            decay: 1 - lr * weight decay; a tensor has shape [].
            seed: of random rounding; None where nothing is `random`.
        """
        self.write_(param, update, decay, seed)

    @abstractmethod
    def put_(self, param: Tensor, value: Tensor, seed: Seeding) -> None:
        """Write `value` to `param`, rounded as `write_` rounds.

        Args:
            param: the weight, or rows of it.
            value: in its shape, float32 or float64.
            seed: of random rounding; None where nothing is `random`.
        """
