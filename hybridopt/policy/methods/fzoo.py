"""FZOO."""

from dataclasses import dataclass

from ...core.contracts import StartFrom
from ...parts.sources.fzoo import FZOO
from ..routes import Route
from ._options import FreePlaces
from ._rates import guessed, paper
from ._zeroth import along

__all__ = ["FZOOPolicy"]


@dataclass(frozen=True)
class FZOOPolicy(FreePlaces):
    """FZOO (Dang et al. 2025): many directions from one side, steps in units of the losses' standard deviation.

    samples: directions a step, which costs one loss more; eps: how far the weights are shifted. The paper's settings:
    lr 5e-5, eps 1e-4. embeddings, norms, biases, head, adapters: free, full (AdamW on the estimate) or frozen.
    """

    eps: float = 1e-4
    samples: int = 8
    start_from = StartFrom(None, paper(5e-5), guessed(5e-5, "as for all weights"))

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything is state-free, but for quantized weights, which are frozen."""
        return self.placed(along(FZOO(self.eps, self.samples)))
