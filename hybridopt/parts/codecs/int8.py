"""State in blockwise 8 bits."""

from dataclasses import dataclass

from torch import Tensor

from ...core.numerics.rounding import Seeding, stochastic_round
from ._blockwise import Blockwise

__all__ = ["Int8"]


@dataclass(frozen=True)
class Int8(Blockwise):
    """Linear 8 bits with one scale for each block (blockwise: Dettmers et al. 2022), rounded stochastically.

    A slot that is never negative is kept as its square root, and its smallest values at one level above zero: a second
    moment of zero beside a first moment that is not would blow the step up. Slots below `exact_below` elements stay
    exact. 1 + 4 / block bytes an element.
    """

    block: int = 256
    exact_below: int = 4096

    def _values(self, levels: Tensor, top: int, signed: bool) -> Tensor:
        return levels

    def _levels(self, values: Tensor, top: int, signed: bool, seed: Seeding) -> Tensor:
        return stochastic_round(values, seed)
