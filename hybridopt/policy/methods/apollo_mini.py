"""APOLLO-Mini."""

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

__all__ = ["ApolloMini"]


@dataclass(frozen=True)
class ApolloMini(Places):
    """APOLLO-Mini (Zhu et al. 2024): one scale a matrix, from a projection on a single random direction.

    scale: the paper's alpha, updates are multiplied by its root. update_gap: steps between two directions. limiter:
    norm growth allowed in a step, or None. Embeddings, norms, biases and the output layer by AdamW.
    """

    update_gap: int = 200
    scale: float = 128.0
    limiter: float | None = 1.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    codec: str | Codec = "fp32"
    store: str | Store | None = None
    adapters = "split"
    start_from = beside_adamw(1, "as in pre-training", pretrain=PRETRAIN_128K(3e-3))

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes: linear weights, convolutions and adapters by APOLLO-Mini, everything else by AdamW."""
        rule = Apollo(
            rank=1,
            update_gap=self.update_gap,
            scale=self.scale,
            scale_type="tensor",
            limiter=self.limiter,
            betas=self.betas,
            eps=self.eps,
        )
        body = Treatment(full=rule, codec=make("codecs", self.codec))
        return matrices(self, body, AdamW(self.betas, self.eps))
