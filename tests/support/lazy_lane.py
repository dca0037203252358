"""A way to a device that keeps nobody from being too early: copies are made as late as they may be.

Until whoever computes has waited for a copy, its bytes are those that make floats NaN; a copy into memory that was
given back meanwhile, or that did not wait for the moment at which its memory was taken, is an error. So whoever breaks
a rule of `Lane` computes something else than resident training, or fails.
"""

from dataclasses import dataclass, field
from itertools import count

from torch import Tensor

from hybridopt.model.placement.backends.staged import Staged
from hybridopt.model.placement.lanes.lane import Lane
from hybridopt.model.placement.streaming.sides import POISON


@dataclass(eq=False)
class Copy:
    """A copy that was asked for: what is copied, and whether that was done."""

    pairs: list[tuple[Tensor, Tensor]]
    done: bool = False


@dataclass(eq=False)
class LazyLane(Lane):
    """Copies in order, none before it is waited for.

    Args:
        refuses: refuse page locks?
        said: what was asked for, in order: names of methods.
    """

    refuses: bool = False
    said: list[str] = field(default_factory=list)
    waiting: list[Copy] = field(default_factory=list)
    locked: dict[int, int] = field(default_factory=dict)
    moments: count = field(default_factory=count)

    def here(self):
        return "the one stream"

    def now(self):
        self.said.append("now")
        return next(self.moments)

    def copy(self, pairs, after):
        assert isinstance(after, int), "a copy begins after its memory was taken"
        self.said.append("copy")
        for to, _ in pairs:
            to.fill_(POISON)
        self.waiting.append(Copy(list(pairs)))
        return self.waiting[-1]

    def wait(self, moment):
        self.said.append("wait")
        if moment is not None or self.waiting:
            self.finish(self.waiting[-1] if moment is None else moment)

    def leave(self, taken, users):
        assert set(users) <= {self.here()}
        self.said.append("leave")
        assert isinstance(taken, int)

    def finish(self, moment):
        while not moment.done:
            first = self.waiting.pop(0)
            for to, source in first.pairs:
                assert to.untyped_storage().nbytes(), "its memory was given back before"
                to.copy_(source)
            first.done = True

    def pin(self, memory):
        if not self.refuses:
            self.locked[memory.data_ptr()] = memory.nbytes
        return not self.refuses

    def unpin(self, address):
        del self.locked[address]


class Lazy(Staged):
    """The backend of accelerators, on such a lane."""

    def __init__(self, device, traffic, options):
        super().__init__(device, traffic, options)
        self.lane = LazyLane()


class Poisoned(Lazy):
    """The same, with memory that is filled with NaN where it would be given back."""

    poisoned = True
