"""CAME."""

from dataclasses import dataclass

from ...core.contracts import Codec, StartFrom, computed
from ...core.registry import make
from ...parts.rules.came import CAME
from ..routes import Route
from ..treatment import Treatment
from ._options import Places
from ._rates import FINETUNE, PRETRAIN_128K, beside_adamw

__all__ = ["CAMEPolicy"]

RATES = beside_adamw(1, "as its steps are as long", full=FINETUNE(3e-4))
RATES_OF_LONG_STEPS = beside_adamw(
    0.03, "as short runs want with first steps of 11 times", pretrain=PRETRAIN_128K(1e-4), full=FINETUNE(1e-5)
)


@dataclass(frozen=True)
class CAMEPolicy(Places):
    """CAME on everything (Luo et al. 2023): momentum, weighted down where updates stray from it.

    lr: about AdamW's. bias_correction: False is the paper's and their package's, whose first steps are 11 times as
    long as lr says. betas, eps, clip_threshold: of the rule; codec keeps the momentum.
    embeddings, norms, biases, head, adapters: full, free (signSGD) or frozen.
    """

    betas: tuple[float, float, float] = (0.9, 0.999, 0.9999)
    eps: tuple[float, float] = (1e-30, 1e-16)
    clip_threshold: float = 1.0
    bias_correction: bool = True
    codec: str | Codec = "fp32"

    @computed
    def start_from(self) -> StartFrom:
        """Return the rates to start from, which are lower where first steps are longer than they say."""
        return RATES if self.bias_correction else RATES_OF_LONG_STEPS

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything is state-full, but for quantized weights, which are frozen."""
        rule = CAME(self.betas, self.eps, self.clip_threshold, self.bias_correction)
        body = Treatment(full=rule, codec=make("codecs", self.codec))
        return self.placed(body)
