"""Density 1."""

from dataclasses import dataclass

from torch import Tensor

from ...core.contracts import Draw, Part, Shape, Split, State

__all__ = ["Whole"]


@dataclass(frozen=True)
class Whole(Split, Part):
    """The whole parameter is state-full: density 1."""

    update_gap: int = 0
    density = 1.0
    local = True
    disjoint = True
    covers = True

    def at(self, draw: Draw, shape: Shape) -> Part:
        """Return itself."""
        return self

    def shape(self, full: Shape) -> Shape:
        """Return the full shape."""
        return full

    def down(self, x: Tensor, basis: State) -> Tensor:
        """Return all of `x`, not copied."""
        return x

    def rest(self, x: Tensor, basis: State) -> None:
        """Return None: nothing is state-free."""
        return None

    def up_(self, out: Tensor, x: Tensor, basis: State) -> Tensor:
        """Return `x` itself.

        Args:
            out: not read, and not written.
            x: of the full shape.
            basis: empty.
        """
        return x
