"""Random orthonormal directions."""

from dataclasses import dataclass

from ...core.contracts import Density, Draw, Part, Shape, Split
from ...core.errors import check_choice
from . import _share
from ._subspace import SIDES, subspace

__all__ = ["Random"]


@dataclass(frozen=True)
class Random(Split):
    """A random semi-orthogonal projection is state-full (FRUGAL, Zmushko et al. 2024, "Random").

    spread: the windows of different parameters begin at different steps, so that no step draws all projections.
    """

    density: Density = 0.25
    update_gap: int = 200
    side: str = "std"
    spread: bool = True

    def __post_init__(self) -> None:
        _share.check("Random", self.density, self.update_gap)
        check_choice("Random", "side", self.side, SIDES)
        _share.check_spread("Random", self.spread)

    def at(self, draw: Draw, shape: Shape) -> Part:
        """Return at least one direction; HybridOptError for what is no matrix."""
        return subspace(self, "random", draw, shape)
