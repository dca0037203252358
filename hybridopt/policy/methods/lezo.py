"""LeZO."""

from dataclasses import dataclass
from functools import cached_property

from ...parts.sources.lezo import LeZO
from ._zeroth import everything_by

__all__ = ["LeZOPolicy"]


@dataclass(frozen=True)
class LeZOPolicy:
    """LeZO (Wang et al. 2024): MeZO on a share `density` of the layers, chosen anew in every step.

    The paper drops three quarters of the layers; less time goes into shifting and updating. eps, samples, kind: as of
    mezo. embeddings, norms, biases, head, adapters: free, full (AdamW on the estimate) or frozen.
    """

    density: float = 0.25
    eps: float = 1e-3
    samples: int = 1
    kind: str = "rademacher"
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
        return everything_by(self, LeZO(self.density, self.eps, self.samples, self.kind))
