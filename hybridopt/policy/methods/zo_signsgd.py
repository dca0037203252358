"""Zeroth-order signSGD."""

from dataclasses import dataclass

from ...core.contracts import StartFrom
from ...parts.rules.signsgd import SignSGD
from ...parts.sources.spsa import SPSA
from ..routes import Route
from ._options import FreePlaces
from ._rates import paper
from ._zeroth import along

__all__ = ["ZOSignSGD"]


@dataclass(frozen=True)
class ZOSignSGD(FreePlaces):
    """Zeroth-order signSGD (Liu et al. 2019): the sign of the estimated gradient, element by element.

    With one Rademacher direction that is sign(g) z: a step needs one bit (FeedSign, Cai et al. 2025). eps, samples,
    kind: as of mezo. embeddings, norms, biases, head, adapters: free, full or frozen.
    """

    eps: float = 1e-3
    samples: int = 1
    kind: str = "rademacher"
    start_from = StartFrom(None, paper(1e-5, "the middle of its grid"), paper(1e-4, "of its grid"))

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything is state-free, but for quantized weights, which are frozen."""
        return self.placed(along(SPSA(self.eps, self.samples, self.kind), free=SignSGD()))
