"""MeZO."""

from dataclasses import dataclass
from functools import cached_property

from ...parts.sources.spsa import SPSA
from ._zeroth import everything_by

__all__ = ["MeZO"]


@dataclass(frozen=True)
class MeZO:
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
    embeddings: str = "free"
    norms: str = "free"
    biases: str = "free"
    head: str = "free"
    adapters: str = "free"

    def __post_init__(self):
        self.routes  # noqa: B018  bad options show now

    @cached_property
    def routes(self):
        """Everything state-free, quantized weights frozen."""
        return everything_by(self, SPSA(self.eps, self.samples, self.kind, self.clip, self.pool))
