"""The twin of the way to a GPU where the CPU stands in for one: copies are done at once."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from .lane import Lane, Moment, Pair, Stream

__all__ = ["HostLane"]


class HostLane(Lane):
    """Everything has happened as soon as it was asked for."""

    def here(self) -> Stream:
        """Return nothing: there is one order for all."""

    def now(self) -> Moment:
        """Return nothing: all is done."""

    def copy(self, pairs: Sequence[Pair], after: Moment) -> Moment:
        """Copy bytes, at once."""
        for to, source in pairs:
            to.copy_(source)

    def wait(self, moment: Moment | None) -> None:
        """Do nothing."""

    def leave(self, taken: Moment, users: Iterable[Stream]) -> None:
        """Do nothing."""

    def finish(self, moment: Moment) -> None:
        """Do nothing."""

    def pin(self, memory: Tensor) -> bool:
        """Do nothing: the CPU reaches all memory."""
        return True

    def unpin(self, address: int) -> None:
        """Do nothing."""
