"""State as it is."""

from dataclasses import dataclass

from torch import Tensor

from ...core.contracts import Codec, Slot, State
from ...core.numerics.rounding import Seeding

__all__ = ["Fp32"]


@dataclass(frozen=True)
class Fp32(Codec):
    """State in the dtype of the arithmetic: 4 bytes an element."""

    local = True

    def raw(self, slot: Slot) -> dict[str, Slot]:
        """Return the slot itself."""
        return {"": slot}

    def load(self, raw: State, slot: Slot) -> Tensor:
        """Return the tensor itself: the rule writes in place."""
        return raw[""]

    def store(self, raw: State, value: Tensor, slot: Slot, seed: Seeding) -> None:
        """Copy a value that is not the raw tensor itself, changed in place.

        Args:
            raw: in the slot's dtype, written in place.
            value: shape of the slot.
            slot: not read.
            seed: not read.
        """
        if value is not raw[""]:
            raw[""].copy_(value)
