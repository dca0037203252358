"""Conservative zeroth-order SGD."""

from dataclasses import dataclass

from ...parts.sources.spsa import SPSA
from ..routes import Route
from ._options import FreePlaces
from ._rates import AS_MEZO
from ._zeroth import along

__all__ = ["ZOConservative"]


@dataclass(frozen=True)
class ZOConservative(FreePlaces):
    """ZO-SGD-Cons (ZO-Bench, Zhang et al. 2024): of MeZO's step, its opposite and none, the one with the lowest loss.

    Five losses a step, on the same batch. eps, kind: as of mezo. embeddings, norms, biases, head, adapters: free or
    frozen.
    """

    eps: float = 1e-3
    kind: str = "rademacher"
    start_from = AS_MEZO

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything is state-free, but for quantized weights, which are frozen."""
        return self.placed(along(SPSA(self.eps, kind=self.kind, conservative=True)))
