"""MeZO."""

from dataclasses import dataclass

from ...parts.sources.spsa import SPSA
from ..routes import Route
from ._options import FreePlaces
from ._rates import MEZO
from ._zeroth import along

__all__ = ["MeZO"]


@dataclass(frozen=True)
class MeZO(FreePlaces):
    """MeZO (Malladi et al. 2023): SGD along random directions, by two losses a step; no gradients, no state.

    eps: how far the weights are shifted; samples: directions a step (n-SPSA); kind: of directions, "rademacher" or
    "gaussian" (the paper's); clip: largest |projected gradient|; pool: number of different directions in all.
    The paper's settings: lr 1e-6 or 1e-7 and eps 1e-3 on all weights, lr 1e-4 and eps 1e-2 on LoRA.
    embeddings, norms, biases, head, adapters: free, full (AdamW on the estimate) or frozen.
    """

    eps: float = 1e-3
    samples: int = 1
    kind: str = "rademacher"
    clip: float | None = None
    pool: int | None = None
    start_from = MEZO

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything is state-free, but for quantized weights, which are frozen."""
        return self.placed(along(SPSA(self.eps, self.samples, self.kind, self.clip, self.pool)))
