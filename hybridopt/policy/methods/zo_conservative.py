"""Conservative zeroth-order SGD."""

from dataclasses import dataclass
from functools import cached_property

from ...parts.sources.spsa import SPSA
from ._zeroth import everything_by

__all__ = ["ZOConservative"]


@dataclass(frozen=True)
class ZOConservative:
    """ZO-SGD-Cons (ZO-Bench, Zhang et al. 2024): of MeZO's step, its opposite and none, the one with the lowest loss.

    Five losses a step, on the same batch. eps, kind: as of mezo. embeddings, norms, biases, head, adapters: free or
    frozen.
    """

    eps: float = 1e-3
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
        return everything_by(self, SPSA(self.eps, kind=self.kind, conservative=True))
