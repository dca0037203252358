"""LOMO."""

from dataclasses import dataclass
from functools import cached_property

from ...parts.rules.sgd import SGD
from ...parts.splits.empty import Empty
from ..routes import place, places
from ..treatment import Treatment

__all__ = ["LOMO"]


@dataclass(frozen=True)
class LOMO:
    """LOMO (Lv et al. 2023): SGD on everything, no state.

    release="fused" is the method's other half: every weight is updated and its gradient freed within the backward
    pass. lr: 3e-2 to 5e-2 in the paper's fine-tuning, with gradients clipped to norm 1.
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
