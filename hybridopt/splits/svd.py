"""The leading singular directions of the gradient."""

from dataclasses import dataclass

from ..base import Density
from ..errors import check_choice
from . import _share
from ._subspace import SIDES, subspace

__all__ = ["Svd"]


@dataclass(frozen=True)
class Svd:
    """The gradient's leading singular directions are state-full (GaLore, Zhao et al. 2024; FRUGAL with SVD).

    `side` is GaLore's proj_type: "std" takes the shorter side.
    """

    density: Density = 0.25
    update_gap: int = 200
    side: str = "std"

    def __post_init__(self):
        _share.check("Svd", self.density, self.update_gap)
        check_choice("Svd", "side", self.side, SIDES)

    def at(self, draw, shape):
        """At least one direction."""
        return subspace(self, "svd", draw, shape)
