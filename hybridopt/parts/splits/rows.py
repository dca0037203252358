"""Rows of a matrix."""

from dataclasses import dataclass

from ...core.contracts import Density, Draw, Part, Shape, Split, portion
from . import _share
from ._lines import Lines
from .columns import Columns

__all__ = ["Rows"]


@dataclass(frozen=True)
class Rows(Split):
    """Random rows (last dimension but one) are state-full, every row in its turn (FRUGAL's coordinate projection)."""

    density: Density = 0.25
    update_gap: int = 200

    def __post_init__(self) -> None:
        _share.check("Rows", self.density, self.update_gap)

    def at(self, draw: Draw, shape: Shape) -> Part:
        """Return at least one row; a vector has none and is split by its entries."""
        if len(shape) < 2:
            return Columns(self.density, self.update_gap).at(draw, shape)
        density, end = _share.limit(self.density, draw)
        return end or Lines(-2, portion(density, shape[-2]))
