"""SinkGD."""

from dataclasses import dataclass

from ...parts.rules.sinkhorn import Sinkhorn
from ..routes import Route
from ._matrices import WithoutState, without_state
from ._rates import beside_adamw

__all__ = ["SinkGDPolicy"]


@dataclass(frozen=True)
class SinkGDPolicy(WithoutState):
    """SinkGD (Scetbon et al. 2025): gradients of matrices with rows and columns brought to one size, without state.

    Embeddings, norms, biases and the output layer by AdamW. rounds: of rows and columns. lr_scale: on the matrices'
    updates alone; with 1 they are as long as AdamW's, so start from its learning rate (the paper's: a global rate of
    0.02, and 0.05 times that for the matrices). betas, eps: AdamW's; codec keeps its state.
    """

    rounds: int = 5
    start_from = beside_adamw(1, "as its steps are as long")

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes: linear weights, convolutions and adapters without state, everything else by AdamW."""
        return self.placed(without_state(Sinkhorn(self.rounds), self))
