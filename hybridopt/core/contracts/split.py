"""What a split, and the part that is in force for one window, are asked for."""

from typing import Protocol

from torch import Tensor

from .values import Draw, Shape, Slot, State

__all__ = ["Part", "Split"]


class Part(Protocol):
    """A split in force for one window: `up_(zeros, down(x)) + rest(x) == x`."""

    local: bool  # may it be applied to slices of rows?
    disjoint: bool  # is every entry either state-full or state-free? Then up_ overwrites
    covers: bool  # is every entry state-full?
    carries: bool  # does `sample` go on from the basis of the window before?

    def shape(self, full: Shape) -> Shape | None:
        """The shape of the state-full part; None where there is none."""

    def slots(self, full: Shape) -> dict[str, Slot]:
        """What the part itself keeps: indices or a basis."""

    def sample(self, grad: Tensor, basis: State, draw: Draw) -> None:
        """Fill the basis at the start of a window, from zeros unless it `carries`; rare and eager.

        `grad` comes in its own dtype, as a copy in that of the basis would be as large as the parameter.
        """

    def down(self, x: Tensor, basis: State) -> Tensor | None:
        """The state-full part of `x`."""

    def rest(self, x: Tensor, basis: State) -> Tensor | None:
        """The state-free part of `x`, in the shape of `x`; None where there is none."""

    def up_(self, out: Tensor, x: Tensor, basis: State) -> Tensor:
        """Join the state-full part `x` to `out`, in place where that is possible."""


class Split(Protocol):
    """Which part of a parameter is state-full, chosen anew every `update_gap` steps (0: once and for all)."""

    update_gap: int

    def at(self, draw: Draw, shape: Shape) -> Part:
        """The part in force in the window of `draw` for a parameter of this shape."""
