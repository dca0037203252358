"""SCALE."""

from dataclasses import dataclass, replace

from ...parts.rules.column_norm import ColumnNorm
from ...parts.splits.whole import Whole
from ..routes import Route
from ._matrices import WithoutState, without_state
from ._rates import beside_adamw

__all__ = ["SCALEPolicy"]


@dataclass(frozen=True)
class SCALEPolicy(WithoutState):
    """SCALE (Glentis et al. 2025): gradients of every output brought to one size; momentum in the output layer.

    Embeddings too are trained so, without state; norms and biases by AdamW. head: "full" has momentum, "free" none.
    lr_scale: on the updates of linear weights, convolutions and adapters alone; all are as long as AdamW's, so start
    from its learning rate (the paper's: 1e-3, without weight decay). betas, eps: AdamW's; codec keeps all state.
    """

    momentum: float = 0.9
    embeddings = "free"
    start_from = beside_adamw(1, "as its steps are as long")

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes: matrices without state, the output layer with momentum, norms and biases by AdamW."""
        rule = ColumnNorm(self.momentum)
        routes = self.placed(without_state(ColumnNorm(), self))
        return tuple(
            replace(r, use=replace(r.use, full=rule)) if r.role == "head" and r.use and r.use.split == Whole() else r
            for r in routes
        )
