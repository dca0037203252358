"""AdamW."""

from dataclasses import dataclass
from functools import cached_property

from ...core.contracts import Codec
from ...core.registry import make
from ...parts.rules.adamw import AdamW
from ..routes import place
from ..treatment import Treatment

__all__ = ["AdamWPolicy"]


@dataclass(frozen=True)
class AdamWPolicy:
    """AdamW on everything (Loshchilov & Hutter 2019): the yardstick. Norms and biases do not decay."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    codec: str | Codec = "fp32"

    def __post_init__(self):
        self.routes  # noqa: B018  bad options show now

    @cached_property
    def routes(self):
        """Everything state-full, quantized weights frozen."""
        body = Treatment(full=AdamW(self.betas, self.eps), codec=make("codecs", self.codec))
        return place(body, norm="full", bias="full")
