"""LOMO."""

from dataclasses import dataclass

from ...core.contracts import StartFrom
from ...parts.rules.sgd import SGD
from ...parts.splits.empty import Empty
from ..routes import Route
from ..treatment import Treatment
from ._options import FreePlaces
from ._rates import ADDAX, PRETRAIN_128K, guessed

__all__ = ["LOMO"]


@dataclass(frozen=True)
class LOMO(FreePlaces):
    """LOMO (Lv et al. 2023): SGD on everything, no state.

    release="fused" is the method's other half: every weight is updated and its gradient freed within the backward
    pass. lr: 3e-2 to 5e-2 in the paper's fine-tuning, with gradients clipped to norm 1.
    embeddings, norms, biases, head, adapters: free, full (AdamW) or frozen.
    """

    start_from = StartFrom(
        PRETRAIN_128K(0.3, scaled=False), ADDAX(5.5e-3, scaled=False), guessed(5.5e-3, "as for all weights")
    )

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything is state-free, but for quantized weights, which are frozen."""
        return self.placed(Treatment(free=SGD(), split=Empty()))
