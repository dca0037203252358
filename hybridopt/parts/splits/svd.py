"""The leading singular directions of the gradient."""

from dataclasses import dataclass, replace

from ...core.contracts import Density, Draw, Part, Shape, Split
from ...core.errors import HybridOptError, check_choice, check_number
from . import _share
from ._int4 import Int4Basis
from ._lazy import Lazy
from ._subspace import SIDES, SOLVERS, Subspace, subspace

__all__ = ["Svd"]


@dataclass(frozen=True)
class Svd(Split):
    """The gradient's leading singular directions are state-full (GaLore, Zhao et al. 2024; FRUGAL with SVD).

    `side` is GaLore's proj_type: "std" takes the shorter side. Q-GaLore (Zhang et al. 2024): the basis in 4 `bits`,
    and a new one half as often once the leading direction stands still (the last five cosines reach `threshold`).
    solver: "subspace", subspace iteration and QR that go on from the last basis, or "exact", the SVD of the papers.
    spread: the windows of different parameters begin at different steps, so that no step finds all bases; False: all
    at once, as in the papers.
    """

    density: Density = 0.25
    update_gap: int = 200
    side: str = "std"
    bits: int = 32
    threshold: float | None = None
    solver: str = "subspace"
    spread: bool = True

    def __post_init__(self) -> None:
        if self.bits not in (4, 32):
            raise HybridOptError(f"bits={self.bits!r} is not allowed; give 4 or 32", "Svd")
        if self.threshold is not None:
            check_number("Svd", "threshold", self.threshold, 0, 1)
        _share.check("Svd", self.density, self.update_gap)
        check_choice("Svd", "side", self.side, SIDES)
        check_choice("Svd", "solver", self.solver, SOLVERS)
        _share.check_spread("Svd", self.spread)

    def at(self, draw: Draw, shape: Shape) -> Part:
        """Return at least one direction; HybridOptError for what is no matrix."""
        part = subspace(self, "svd", draw, shape, self.solver)
        if not isinstance(part, Subspace):
            return part
        part = replace(part, ordered=self.threshold is not None)
        kept = Int4Basis(part) if self.bits == 4 else part
        return kept if self.threshold is None else Lazy(kept, self.threshold)
