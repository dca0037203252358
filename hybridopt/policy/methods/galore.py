"""GaLore."""

from dataclasses import dataclass
from functools import cached_property

from ...core.contracts import Codec, Density, Rule
from ...core.registry import make, unpack
from ...parts.rules.no_update import NoUpdate
from ...parts.splits.svd import Svd
from ..routes import place, places
from ..treatment import Treatment

__all__ = ["GaLore"]


@dataclass(frozen=True)
class GaLore:
    """GaLore (Zhao et al. 2024): Adam in the gradient's leading singular directions, nothing outside them.

    density: rank as a share of the shorter side. scale: the paper's alpha, on the projected updates. side: the
    reference's proj_type. reset=False keeps the moments over a change of subspace, as the paper does.
    """

    density: Density = 0.25
    update_gap: int = 200
    scale: float = 0.25
    side: str = "std"
    full: str | Rule = "adamw"
    reset: bool = False
    codec: str | Codec = "fp32"
    embeddings: str = "full"
    norms: str = "full"
    biases: str = "full"
    head: str = "full"
    adapters: str = "split"

    def __post_init__(self):
        object.__setattr__(self, "density", unpack(self.density, "schedules"))
        self.routes  # noqa: B018  bad options show now

    @cached_property
    def routes(self):
        """Linear weights, convolutions and adapters projected; everything else state-full."""
        body = Treatment(
            full=make("rules", self.full),
            free=NoUpdate(),
            split=Svd(self.density, self.update_gap, self.side),
            codec=make("codecs", self.codec),
            lr_scale=self.scale,
            reset=self.reset,
        )
        return place(body, **places(self))
