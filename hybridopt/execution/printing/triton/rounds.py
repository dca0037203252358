"""Rules that look at their whole matrix in rounds, as Triton kernels: what they depend on, and what they hand on."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ....core.contracts import Codec, Rule
from ..tracing.rounds import RoundsOfRule, rounds_of
from .launch import Launch
from .rounds_text import RoundsText
from .tiles import Tiles

__all__ = ["RoundsKernels"]


@dataclass(frozen=True)
class RoundsKernels:
    """What the kernels depend on.

    Args:
        rule: with rounds, for all elements.
        fixed: rows and columns that it is made for; None: any.
        slots: the names of the state that goes with the elements, and whether it may be negative.
        codec: what keeps that state.
        settled: the names of the state that `settle` moves, in float32.
        random: is the weight rounded at random? Else to nearest.
        rounded: names of the seeds in the order of their keys.
        short: are there so few rows that every program may add up vectors by row?
    """

    rule: Rule
    fixed: tuple[int | None, int | None]
    slots: tuple[tuple[str, bool], ...]
    codec: Codec
    settled: tuple[str, ...]
    random: bool
    rounded: tuple[str, ...]
    short: bool = False

    @cached_property
    def rounds(self) -> RoundsOfRule | None:
        """Return what the rule does; None where it cannot be printed."""
        rule: Any = self.rule
        found = rounds_of(rule, tuple(dict(self.slots)), self.fixed)
        if found is None or any(line.sums for line in found.update.lines):
            return None
        try:
            RoundsText(self.tiles, type(self.rule).__name__, self.settled, found, self.short)
        except NotImplementedError:
            return None
        return found

    @property
    def tiles(self) -> Tiles:
        """Return how state and weights are kept."""
        return Tiles(self.slots, self.codec, self.random, self.rounded, "width", "BC")

    def text(self) -> str:
        """Return the module in which the kernels are defined."""
        return self._made.text

    @property
    def launches(self) -> tuple[Launch, ...]:
        """Return the kernels, in order."""
        return self._made.launches

    def room(self, rows: int, width: int) -> int:
        """Return how many numbers are kept between kernels."""
        by_row, by_column, single = self._made.room.size
        return by_row * rows + by_column * width + single

    def parted(self, rows: int, width: int, parts: int) -> int:
        """Return how many numbers the programs of a look leave behind.

        Args:
            rows: of the matrix.
            width: of the matrix.
            parts: programs of a look.
        """
        return parts * max((wide * width + single for wide, single in self._made.parted), default=0)

    @cached_property
    def _made(self) -> RoundsText:
        assert self.rounds is not None
        return RoundsText(self.tiles, type(self.rule).__name__, self.settled, self.rounds, self.short)
