"""How values are read from 8-bit codes and written to them, in plain tensors, of which kernels can be made."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.numerics.grids import decode, encode, grid, groups
from ...core.numerics.rounding import Seeding, stochastic_round

__all__ = ["TOP", "Int8Codes", "straight", "turned"]

TOP = 255


@dataclass(frozen=True, eq=False)
class Int8Codes:
    """The tensors of an `Int8Weight`, and what a store asks of it.

    Args:
        codes: uint8 [..., m, n].
        scale: size of a level, float32 [groups].
        zero: code of the value 0, uint8 [groups].
        transposed: the weight is [..., n, m], its codes are not.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    transposed: bool = False

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return the values as a plain tensor."""
        x = self._ungrouped(decode(groups(self.codes), self.scale, self.zero, dtype))
        return x.transpose(-1, -2) if self.transposed else x

    def to(self, dtype: torch.dtype) -> Tensor:
        """Return the values, as a float tensor would."""
        return self.dequantize(dtype)

    def write_(self, x: Tensor, seed: Seeding = None) -> None:
        """Take new float32 values on grids of their own: rounded at random by `seed`, or to nearest without."""
        x = groups(x.transpose(-1, -2) if self.transposed else x)
        scale, zero = grid(x, TOP)
        x = self._ungrouped(encode(x, scale, zero))
        self.codes.copy_((x.round() if seed is None else stochastic_round(x, seed)).clamp_(0, TOP))
        self.scale.copy_(scale)
        self.zero.copy_(zero)

    def _ungrouped(self, x: Tensor) -> Tensor:
        return x.view(-1)[: self.codes.numel()].view(self.codes.shape)


def straight(parts: Sequence[Tensor]) -> Int8Codes:
    """Return the codes of a weight from its codes, scale and zero."""
    codes, scale, zero = parts
    return Int8Codes(codes, scale, zero)


def turned(parts: Sequence[Tensor]) -> Int8Codes:
    """Return the codes of a weight that is the transpose of what its codes, scale and zero are."""
    codes, scale, zero = parts
    return Int8Codes(codes, scale, zero, transposed=True)
