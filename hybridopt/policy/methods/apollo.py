"""APOLLO."""

from dataclasses import dataclass

from ...core.contracts import Codec, Store
from ...core.registry import make
from ...parts.rules.adamw import AdamW
from ...parts.rules.apollo import Apollo
from ..routes import Route
from ..treatment import Treatment
from ._matrices import matrices
from ._options import Places
from ._rates import PRETRAIN_128K, beside_adamw

__all__ = ["ApolloPolicy"]


@dataclass(frozen=True)
class ApolloPolicy(Places):
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
    store: str | Store | None = None
    adapters = "split"
    start_from = beside_adamw(3, "as in pre-training", pretrain=PRETRAIN_128K(1e-2))

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes: linear weights, convolutions and adapters by APOLLO, everything else by AdamW."""
        rule = Apollo(
            density=self.density,
            rank=self.rank,
            update_gap=self.update_gap,
            scale=self.scale,
            limiter=self.limiter,
            betas=self.betas,
            eps=self.eps,
        )
        body = Treatment(full=rule, codec=make("codecs", self.codec))
        return matrices(self, body, AdamW(self.betas, self.eps))
