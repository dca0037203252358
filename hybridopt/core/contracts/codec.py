"""What a codec of optimizer state is asked for."""

from abc import abstractmethod
from typing import Protocol

from torch import Tensor

from ..numerics.rounding import Seeding
from .values import Slot, State

__all__ = ["Codec"]


class Codec(Protocol):
    """How a slot is kept between two steps: as named plain tensors, so that checkpoints stay plain."""

    local: bool = False
    """Does it work element by element? Else state is cut into slices only where every row is a block."""

    random: bool = False
    """Does it round at random?"""

    block: int = 0
    """Elements in a row that are coded together; 0: there are no blocks."""

    beside: tuple[str, ...] = ()
    """Suffixes of raw tensors with one number for every block."""

    @abstractmethod
    def raw(self, slot: Slot) -> dict[str, Slot]:
        """Return the raw tensors that keep a slot, by suffix; the suffix "" is the main one."""

    @abstractmethod
    def load(self, raw: State, slot: Slot) -> Tensor:
        """Return the value of a slot, in the slot's dtype, from its raw tensors by suffix."""

    @abstractmethod
    def store(self, raw: State, value: Tensor, slot: Slot, seed: Seeding) -> None:
        """Keep a value.

        Args:
            raw: the raw tensors by suffix, changed in place.
            value: what `load` returned, changed by the rule, or another tensor in its place.
            slot: what was declared.
            seed: of random rounding; None where nothing is `random`.
        """
