"""Columns of a matrix."""

from dataclasses import dataclass

from ...core.contracts import Density, Draw, Part, Shape, Split, portion
from . import _share
from ._lines import Lines
from .whole import Whole

__all__ = ["Columns"]


@dataclass(frozen=True)
class Columns(Split):
    """Random columns (last dimension) are state-full, every column in its turn (FRUGAL, Zmushko et al. 2024, 4.1)."""

    density: Density = 0.25
    update_gap: int = 200

    def __post_init__(self) -> None:
        _share.check("Columns", self.density, self.update_gap)

    def at(self, draw: Draw, shape: Shape) -> Part:
        """Return at least one column; a scalar is whole."""
        density, end = _share.limit(self.density, draw)
        return end or (Lines(-1, portion(density, shape[-1])) if shape else Whole())
