"""bfloat16 weights with eight more bits in the optimizer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.contracts import Shape, Slot, State, Store
from ...core.numerics.rounding import Seeding
from ...core.numerics.split_floats import joined, parted

__all__ = ["Bf16Split"]


@dataclass(frozen=True)
class Bf16Split(Store):
    """Weights of 24 bits: bfloat16 in the model, the rest in the optimizer (FlashOptim, Gonzalez Ortiz et al. 2026).

    The model computes with the weight rounded to nearest, and saves that; "weight.low", an int8 an element, holds what
    rounding took, in steps of 1/256 of a bfloat16's last place. Sums are made in float32 and rounded to the nearest 24
    bits, by 2^-16 of the weight at the most, and nothing is random: steps below 2^-17 of a weight do not arrive, which
    those of `bf16_stochastic` do on average. Who writes to the weights past the optimizer leaves the old remainder,
    half a last place at the most.
    """

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Declare the remainder, "low": one byte an element."""
        return {"low": Slot(shape, torch.int8, exact=True)}

    def fits(self, dtype: torch.dtype) -> bool:
        """Return whether it is bfloat16."""
        return dtype == torch.bfloat16

    def write_beside_(
        self, param: Tensor, beside: State, update: Tensor, decay: float | Tensor, seed: Seeding
    ) -> None:
        """Join both parts, decay, subtract, and part the sum again.

        Args:
            param: bfloat16, written in place.
            beside: the remainder, "low", int8 in the shape of `param`, written in place.
            update: float32, shape of `param` or [].
            decay: by what the weight is multiplied before.
            seed: not read.
        """
        value = joined(param, beside["low"]).mul_(decay).sub_(update)
        high, low = parted(value)
        param.copy_(high)
        beside["low"].copy_(low)

    def write_(self, param: Tensor, update: Tensor, decay: float | Tensor, seed: Seeding) -> None:
        """Do the same without a remainder: rounded to nearest.

        Args:
            param: bfloat16, written in place.
            update: float32, shape of `param` or [].
            decay: by what the weight is multiplied before.
            seed: not read.
        """
        self.put_(param, param.float().mul_(decay).sub_(update), seed)

    def put_(self, param: Tensor, value: Tensor, seed: Seeding) -> None:
        """Round a value to nearest, without a remainder.

        Args:
            param: bfloat16, written in place.
            value: float32, shape of `param`.
            seed: not read.
        """
        param.copy_(parted(value)[0])
