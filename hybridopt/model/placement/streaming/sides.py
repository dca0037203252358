"""The two places of a unit's tensors: where they rest, and the device that computes."""

import torch
from torch import Tensor

from ....core.contracts import Piece
from ..guarding.foreign_writes import Marks
from ..lanes.lane import Moment, Stream
from ..storage.arena import Layout

__all__ = ["Sides"]

POISON = 255  # the byte that makes floats NaN


class Sides:
    """The two places of a unit's tensors.

    Args:
        layout: of the tensors, on both sides.
        resting: the tensors at rest, of the pieces in their order.
        device: that computes.
    """

    def __init__(self, layout: Layout, resting: list[Tensor], device: torch.device):
        self.layout, self.resting = layout, resting
        self.memory = torch.empty(layout.nbytes, dtype=torch.uint8, device=device)
        self.near = layout.views(self.memory)
        self.taken: Moment = None
        self.copied: Moment = None
        self.ready: Moment = None  # when it is near and has all that was written to it
        self.joined: set[Stream] = set()  # where that was waited for
        self.users: set[Stream] = set()  # where the memory was used since it was taken
        self.state = "rests"  # "open", "coming", "near"
        self.marks = Marks()
        self.ahead: set[Piece] = set()  # near, and written to by the optimizer, but not at rest

    @property
    def filled(self) -> bool:
        """Return whether there is memory on the device."""
        return self.memory.untyped_storage().nbytes() > 0

    def kept(self, pieces: set[Piece]) -> None:
        """Note that some tensors have the same values at rest as on the device."""
        self.ahead -= pieces
        self.marks.set(pieces)

    def fill(self) -> None:
        """Take memory on the device, without values."""
        if not self.filled:
            self.memory.untyped_storage().resize_(self.memory.nbytes)

    def empty(self, poisoned: bool = False) -> None:
        """Give the memory on the device back; poisoned: keep it, filled with what makes results NaN."""
        if poisoned:
            self.memory.fill_(POISON)
        else:
            self.memory.untyped_storage().resize_(0)
