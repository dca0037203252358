"""Q-GaLore."""

from dataclasses import dataclass

from ...core.contracts import Codec, Density, Rule
from ...core.errors import check_number
from ...core.registry import make, unpack
from ...parts.rules.no_update import NoUpdate
from ...parts.splits.svd import Svd
from ..routes import Route
from ..treatment import Treatment
from ._options import Places
from ._rates import FINETUNE, PRETRAIN_128K, beside_adamw

__all__ = ["QGaLore"]


@dataclass(frozen=True)
class QGaLore(Places):
    """Q-GaLore (Zhang et al. 2024): GaLore with 4-bit projections, 8-bit Adam and a search for directions when needed.

    For 8-bit weights as in the paper wrap with quantization="int8-trainable". density, update_gap, scale, side,
    solver, spread: as in galore. threshold: cosine of a layer's leading direction with its last one from which the
    search is made half as often (the mean of five counts); None searches every update_gap steps. bits: of the
    projection, 4 or 32.
    """

    density: Density = 0.25
    update_gap: int = 200
    scale: float = 0.25
    side: str = "std"
    threshold: float | None = 0.4
    bits: int = 4
    full: str | Rule = "adamw"
    reset: bool = False
    codec: str | Codec = "int8"
    solver: str = "subspace"
    spread: bool = True
    adapters = "split"
    start_from = beside_adamw(
        4,
        "as its updates are a quarter as long",
        pretrain=PRETRAIN_128K(3e-2),
        full=FINETUNE(1e-3).times(1, "derived: GaLore's"),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", unpack(self.density, "schedules"))
        super().__post_init__()

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes: linear weights, convolutions and adapters are projected, all else is state-full."""
        check_number("qgalore", "scale", self.scale, 0)
        split = Svd(self.density, self.update_gap, self.side, self.bits, self.threshold, self.solver, self.spread)
        body = Treatment(
            full=make("rules", self.full),
            free=NoUpdate(),
            split=split,
            codec=make("codecs", self.codec),
            lr_scale=self.scale,
            reset=self.reset,
        )
        return self.placed(body)
