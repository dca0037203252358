"""IP-SGD."""

from dataclasses import dataclass

from ...core.contracts import StartFrom
from ...parts.rules.sgd import SGD
from ...parts.splits.empty import Empty
from ..routes import Route
from ..treatment import Treatment
from ._options import FreePlaces
from ._rates import ADDAX, PRETRAIN_128K, guessed

__all__ = ["IPSGD"]


@dataclass(frozen=True)
class IPSGD(FreePlaces):
    """IP-SGD, the first-order half of Addax (Li et al. 2025): SGD on everything, in place, no state.

    The same update as LOMO. release="fused" makes it in place: gradients are freed within the backward pass.
    embeddings, norms, biases, head, adapters: free, full (AdamW) or frozen.
    """

    start_from = StartFrom(
        PRETRAIN_128K(0.3, scaled=False), ADDAX(5.5e-3, scaled=False), guessed(5.5e-3, "as for all weights")
    )

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything is state-free, but for quantized weights, which are frozen."""
        return self.placed(Treatment(free=SGD(), split=Empty()))
