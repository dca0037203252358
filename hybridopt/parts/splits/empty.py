"""Density 0."""

from dataclasses import dataclass

from torch import Tensor

from ...core.contracts import Draw, Part, Shape, Split, State

__all__ = ["Empty"]


@dataclass(frozen=True)
class Empty(Split, Part):
    """The whole parameter is state-free: density 0."""

    update_gap: int = 0
    density = 0.0
    local = True
    empty = True

    def at(self, draw: Draw, shape: Shape) -> Part:
        """Return itself."""
        return self

    def shape(self, full: Shape) -> None:
        """Return None: there is no state-full part."""
        return None

    def down(self, x: Tensor, basis: State) -> None:
        """Return None: nothing is state-full."""
        return None

    def rest(self, x: Tensor, basis: State) -> Tensor:
        """Return all of `x`, not copied."""
        return x

    def up_(self, out: Tensor, x: Tensor, basis: State) -> Tensor:
        """Return `out` as it is.

        Args:
            out: of the full shape.
            x: not read.
            basis: empty.
        """
        return out
