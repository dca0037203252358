"""Lion."""

from dataclasses import dataclass

from ...core.contracts import Codec, Store
from ...core.registry import make
from ...parts.rules.lion import Lion
from ..routes import Route
from ..treatment import Treatment
from ._options import Places
from ._rates import PRETRAIN_128K, beside_adamw

__all__ = ["LionPolicy"]


@dataclass(frozen=True)
class LionPolicy(Places):
    """Lion on everything (Chen et al. 2023): the sign of a momentum, half of AdamW's state.

    lr: 3 to 10 times smaller than AdamW's, weight decay as much larger. codec keeps the momentum. embeddings, norms,
    biases, head, adapters: full, free (signSGD) or frozen.
    """

    betas: tuple[float, float] = (0.9, 0.99)
    codec: str | Codec = "fp32"
    store: str | Store | None = None
    start_from = beside_adamw(0.1, "as in pre-training", pretrain=PRETRAIN_128K(3e-4))

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything is state-full, but for quantized weights, which are frozen."""
        body = Treatment(full=Lion(self.betas), codec=make("codecs", self.codec))
        return self.placed(body)
