"""What a codec of optimizer state is asked for."""

from typing import Protocol

from torch import Tensor

from ..numerics.rounding import Seed
from .values import Slot, State

__all__ = ["Codec"]


class Codec(Protocol):
    """How a slot is kept between two steps, as named plain tensors, so that checkpoints stay plain."""

    local: bool  # element by element?
    random: bool  # does it round at random?

    def raw(self, slot: Slot) -> dict[str, Slot]:
        """Suffix to raw slot; the suffix "" is the main tensor."""

    def load(self, raw: State, slot: Slot) -> Tensor:
        """The value, in the slot's dtype."""

    def store(self, raw: State, value: Tensor, slot: Slot, seed: Seed) -> None:
        """Keep the value; `seed` is what rounding needs."""
