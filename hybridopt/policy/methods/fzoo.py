"""FZOO."""

from dataclasses import dataclass
from functools import cached_property

from ...parts.sources.fzoo import FZOO
from ._zeroth import everything_by

__all__ = ["FZOOPolicy"]


@dataclass(frozen=True)
class FZOOPolicy:
    """FZOO (Dang et al. 2025): many directions from one side, steps in units of the losses' standard deviation.

    samples: directions a step, which costs one loss more; eps: how far the weights are shifted. The paper's settings:
    lr 5e-5, eps 1e-4. embeddings, norms, biases, head, adapters: free, full (AdamW on the estimate) or frozen.
    """

    eps: float = 1e-4
    samples: int = 8
    embeddings: str = "free"
    norms: str = "free"
    biases: str = "free"
    head: str = "free"
    adapters: str = "free"

    def __post_init__(self):
        self.routes  # noqa: B018  bad options show now

    @cached_property
    def routes(self):
        """Everything state-free, quantized weights frozen."""
        return everything_by(self, FZOO(self.eps, self.samples))
