"""IP-SGD."""

from dataclasses import dataclass
from functools import cached_property

from ...parts.rules.sgd import SGD
from ...parts.splits.empty import Empty
from ..routes import place, places
from ..treatment import Treatment

__all__ = ["IPSGD"]


@dataclass(frozen=True)
class IPSGD:
    """IP-SGD, the first-order half of Addax (Li et al. 2025): SGD on everything, in place, no state.

    The same update as LOMO. release="fused" makes it in place: gradients are freed within the backward pass.
    embeddings, norms, biases, head, adapters: free, full (AdamW) or frozen.
    """

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
        return place(
            Treatment(free=SGD(), split=Empty()),
            **places(self),
            other="free",
        )
