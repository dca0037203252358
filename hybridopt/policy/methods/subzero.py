"""SubZero."""

from dataclasses import dataclass

from ...parts.sources.subzero import SubZero
from ..routes import Route
from ._options import FreePlaces
from ._rates import AS_MEZO
from ._zeroth import along

__all__ = ["SubZeroPolicy"]


@dataclass(frozen=True)
class SubZeroPolicy(FreePlaces):
    """SubZero (Yu et al. 2024): MeZO along directions of low rank, in subspaces drawn anew every `update_gap` steps.

    rank: of the directions (the paper's 24 to 128); eps, samples: as of mezo. State: 4 rank (m + n) bytes a matrix.
    embeddings, norms, biases, head, adapters: free, full (AdamW on the estimate) or frozen.
    """

    rank: int = 24
    update_gap: int = 1000
    eps: float = 1e-3
    samples: int = 1
    start_from = AS_MEZO

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything is state-free, but for quantized weights, which are frozen."""
        return self.placed(along(SubZero(self.rank, self.update_gap, self.eps, self.samples)))
