"""SWAN."""

from dataclasses import dataclass

from ...parts.rules.whiten import Whiten
from ..routes import Route
from ._matrices import WithoutState, without_state
from ._rates import beside_adamw

__all__ = ["SWANPolicy"]


@dataclass(frozen=True)
class SWANPolicy(WithoutState):
    """SWAN (Ma et al. 2024): gradients of matrices, rows standardised and then whitened, without state.

    Embeddings, norms, biases and the output layer by AdamW. rows: "standard", "rms" or "none"; ns_steps, dtype: of the
    iterations. lr_scale: on the matrices' updates alone; with 1 they are as long as AdamW's, so start from its rate.
    betas, eps: AdamW's; codec keeps its state.
    """

    rows: str = "standard"
    ns_steps: int = 5
    dtype: str = "auto"
    start_from = beside_adamw(1, "as its steps are as long")

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes: linear weights, convolutions and adapters without state, everything else by AdamW."""
        return self.placed(without_state(Whiten(self.rows, self.ns_steps, dtype=self.dtype), self))
