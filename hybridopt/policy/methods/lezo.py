"""LeZO."""

from dataclasses import dataclass

from ...parts.sources.lezo import LeZO
from ..routes import Route
from ._options import FreePlaces
from ._rates import AS_MEZO
from ._zeroth import along

__all__ = ["LeZOPolicy"]


@dataclass(frozen=True)
class LeZOPolicy(FreePlaces):
    """LeZO (Wang et al. 2024): MeZO on a share `density` of the layers, chosen anew in every step.

    The paper drops three quarters of the layers; less time goes into shifting and updating. eps, samples, kind: as of
    mezo. embeddings, norms, biases, head, adapters: free, full (AdamW on the estimate) or frozen.
    """

    density: float = 0.25
    eps: float = 1e-3
    samples: int = 1
    kind: str = "rademacher"
    start_from = AS_MEZO

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything is state-free, but for quantized weights, which are frozen."""
        return self.placed(along(LeZO(self.density, self.eps, self.samples, self.kind)))
