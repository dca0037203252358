"""AdamW."""

from dataclasses import dataclass

from ...core.contracts import Codec, Store
from ...core.registry import make
from ...parts.rules.adamw import AdamW
from ..routes import Route, place
from ..treatment import Treatment
from ._options import NamedPolicy
from ._rates import ADAMW

__all__ = ["AdamWPolicy"]


@dataclass(frozen=True)
class AdamWPolicy(NamedPolicy):
    """AdamW on everything (Loshchilov & Hutter 2019): the yardstick. Norms and biases do not decay."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    codec: str | Codec = "fp32"
    store: str | Store | None = None
    start_from = ADAMW

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything is state-full, but for quantized weights, which are frozen."""
        body = Treatment(full=AdamW(self.betas, self.eps), codec=make("codecs", self.codec))
        return place(body, norm="full", bias="full")
