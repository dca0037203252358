"""What is asked of the way to a device."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from torch import Tensor

__all__ = ["Lane", "Moment", "Pair", "Stream"]

Pair = tuple[Tensor, Tensor]
Stream = Any  # whatever keeps what is asked of a device in order
Moment = Any  # a point in what was asked of a device, which it will have reached at some time


class Lane(Protocol):
    """A way for bytes to a device, and the order of what is asked of it.

    "Whoever computes" is the caller, in the thread and on the stream on which layers are computed; there may be
    several. Memory is taken and given back by them, so that it is theirs in the order in which they ask for things.
    Four rules keep every byte right, and those who use a lane follow them:

    1. a copy begins after the moment (`now`) at which its memory was taken: what had it before is then done with it;
    2. nothing is computed with it on a stream before that was asked to `wait` for the copy, and for what was written;
    3. memory is given back after its last use was asked for, and after that wait, even if it was not used at all;
    4. before memory is given back, `leave` joins the streams it was used on with the one on which it was taken.
    """

    timed: bool = False
    """Keep the moments of waits, so that `stalled` can tell?"""

    forked: bool = True
    """Is page-locked memory there in forked processes? Where a driver holds it, Linux would copy it at every fork."""

    @abstractmethod
    def here(self) -> Stream:
        """Return what keeps what the caller asks for in order: the same for all that need not wait for one another."""

    @abstractmethod
    def now(self) -> Moment:
        """Return the moment at which all is done that whoever computes has asked for so far."""

    @abstractmethod
    def copy(self, pairs: Sequence[Pair], after: Moment) -> Moment:
        """Copy bytes beside the computation, once a moment has come; may be called from any thread.

        Args:
            pairs: of bytes on the device, and those of the host that go there; these stay as they are meanwhile.
            after: the moment.

        Returns:
            The moment at which all copies are done.
        """

    @abstractmethod
    def wait(self, moment: Moment | None) -> None:
        """Let what whoever computes asks for from now on begin after a moment; None: after all copies so far."""

    @abstractmethod
    def leave(self, taken: Moment, users: Iterable[Stream]) -> None:
        """Let memory be given back now, by whoever computes.

        Args:
            taken: the moment at which it was taken.
            users: where it was used; what was asked for there so far is done before others have it.
        """

    @abstractmethod
    def finish(self, moment: Moment) -> None:
        """Return once a moment has come."""

    @abstractmethod
    def pin(self, memory: Tensor) -> bool:
        """Keep bytes of the host where they are, so that a device can fetch them by itself; False: refused."""

    @abstractmethod
    def unpin(self, address: int) -> None:
        """Let the bytes at an address be ordinary memory again."""

    def stalled(self) -> float:
        """Return the seconds that whoever computes has waited for copies since this was last asked; see `timed`."""
        return 0.0
