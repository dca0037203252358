"""signSGD."""

from dataclasses import dataclass
from functools import cached_property

from ...parts.splits.empty import Empty
from ..routes import place, places
from ..treatment import Treatment

__all__ = ["SignSGDPolicy"]


@dataclass(frozen=True)
class SignSGDPolicy:
    """signSGD on everything (Bernstein et al. 2018): no state at all.

    A state-free output layer ruins language models (34.7 against 20.0 perplexity in FRUGAL's ablation): head="full"
    keeps it state-full; so do the other places for their roles.
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
            Treatment(split=Empty()),
            **places(self),
            other="free",
        )
