"""Zeroth-order signSGD."""

from dataclasses import dataclass
from functools import cached_property

from ...parts.rules.signsgd import SignSGD
from ...parts.sources.spsa import SPSA
from ._zeroth import everything_by

__all__ = ["ZOSignSGD"]


@dataclass(frozen=True)
class ZOSignSGD:
    """Zeroth-order signSGD (Liu et al. 2019): the sign of the estimated gradient, element by element.

    With one Rademacher direction that is sign(g) z: a step needs one bit (FeedSign, Cai et al. 2025). eps, samples,
    kind: as of mezo. embeddings, norms, biases, head, adapters: free, full or frozen.
    """

    eps: float = 1e-3
    samples: int = 1
    kind: str = "rademacher"
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
        return everything_by(self, SPSA(self.eps, self.samples, self.kind), free=SignSGD())
