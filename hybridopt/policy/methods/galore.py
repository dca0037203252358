"""GaLore."""

from dataclasses import dataclass

from ...core.contracts import Codec, Density, Rule, Store
from ...core.errors import check_number
from ...core.registry import make, unpack
from ...parts.rules.no_update import NoUpdate
from ...parts.splits.svd import Svd
from ..routes import Route
from ..treatment import Treatment
from ._options import Places
from ._rates import FINETUNE, PRETRAIN_128K, beside_adamw

__all__ = ["GaLore"]


@dataclass(frozen=True)
class GaLore(Places):
    """GaLore (Zhao et al. 2024): Adam in the gradient's leading singular directions, nothing outside them.

    density: rank as a share of the shorter side. scale: the paper's alpha, on the projected updates. side: the
    reference's proj_type. reset: forget the moments at a change of subspace; the paper keeps them. solver: "subspace",
    subspace iteration from the last basis, or "exact", the paper's SVD. spread: every weight changes its subspace at
    steps of its own; False: all in the same step, as in the paper.
    """

    density: Density = 0.25
    update_gap: int = 200
    scale: float = 0.25
    side: str = "std"
    full: str | Rule = "adamw"
    reset: bool = False
    codec: str | Codec = "fp32"
    store: str | Store | None = None
    solver: str = "subspace"
    spread: bool = True
    adapters = "split"
    start_from = beside_adamw(
        4, "as its updates are a quarter as long", pretrain=PRETRAIN_128K(3e-2), full=FINETUNE(1e-3)
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", unpack(self.density, "schedules"))
        super().__post_init__()

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes: linear weights, convolutions and adapters are projected, everything else is state-full."""
        check_number("galore", "scale", self.scale, 0)
        body = Treatment(
            full=make("rules", self.full),
            free=NoUpdate(),
            split=Svd(self.density, self.update_gap, self.side, solver=self.solver, spread=self.spread),
            codec=make("codecs", self.codec),
            lr_scale=self.scale,
            reset=self.reset,
        )
        return self.placed(body)
