"""APOLLO."""

from dataclasses import dataclass
from functools import cached_property

from ...core.contracts import Codec
from ...core.registry import make
from ...parts.rules.adamw import AdamW
from ...parts.rules.apollo import Apollo
from ..routes import places
from ..treatment import Treatment
from ._matrices import matrices

__all__ = ["ApolloPolicy"]


@dataclass(frozen=True)
class ApolloPolicy:
    """APOLLO (Zhu et al. 2024): every channel's gradient scaled as Adam scales a random projection of it.

    density: rank as a share of the shorter side (the paper: 1/4); rank overrides it. update_gap: steps between two
    projections. scale: the paper's alpha, about the shorter side over the rank; updates are multiplied by its root.
    limiter: norm growth allowed in a step, or None. Embeddings, norms, biases and the output layer by AdamW.
    """

    density: float = 0.25
    rank: int | None = None
    update_gap: int = 200
    scale: float = 1.0
    limiter: float | None = 1.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    codec: str | Codec = "fp32"
    embeddings: str = "full"
    norms: str = "full"
    biases: str = "full"
    head: str = "full"
    adapters: str = "split"

    def __post_init__(self):
        self.routes  # noqa: B018  bad options show now

    @cached_property
    def routes(self):
        """Linear weights, convolutions and adapters by APOLLO; everything else by AdamW."""
        rule = Apollo(
            density=self.density,
            rank=self.rank,
            update_gap=self.update_gap,
            scale=self.scale,
            limiter=self.limiter,
            betas=self.betas,
            eps=self.eps,
        )
        return matrices(
            Treatment(full=rule, codec=make("codecs", self.codec)),
            AdamW(self.betas, self.eps),
            **places(self),
        )
