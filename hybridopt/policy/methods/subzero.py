"""SubZero."""

from dataclasses import dataclass
from functools import cached_property

from ...parts.sources.subzero import SubZero
from ._zeroth import everything_by

__all__ = ["SubZeroPolicy"]


@dataclass(frozen=True)
class SubZeroPolicy:
    """SubZero (Yu et al. 2024): MeZO along directions of low rank, in subspaces drawn anew every `update_gap` steps.

    rank: of the directions (the paper's 24 to 128); eps, samples: as of mezo. State: 4 rank (m + n) bytes a matrix.
    embeddings, norms, biases, head, adapters: free, full (AdamW on the estimate) or frozen.
    """

    rank: int = 24
    update_gap: int = 1000
    eps: float = 1e-3
    samples: int = 1
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
        return everything_by(self, SubZero(self.rank, self.update_gap, self.eps, self.samples))
