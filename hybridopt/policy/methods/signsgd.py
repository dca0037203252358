"""signSGD."""

from dataclasses import dataclass

from ...parts.splits.empty import Empty
from ..routes import Route
from ..treatment import Treatment
from ._options import FreePlaces
from ._rates import FINETUNE, PRETRAIN_128K, beside_adamw, guessed

__all__ = ["SignSGDPolicy"]


@dataclass(frozen=True)
class SignSGDPolicy(FreePlaces):
    """signSGD on everything (Bernstein et al. 2018): no state at all.

    A state-free output layer ruins language models (34.7 against 20.0 perplexity in FRUGAL's ablation): head="full"
    keeps it state-full; so do the other places for their roles.
    """

    start_from = beside_adamw(
        3,
        "as on all weights",
        pretrain=PRETRAIN_128K(1e-3),
        full=FINETUNE(3e-4),
        lora=guessed(3e-3, "FRUGAL's; 1e-2 was best on the one task where it was measured"),
    )

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything is state-free, but for quantized weights, which are frozen."""
        return self.placed(Treatment(split=Empty()))
