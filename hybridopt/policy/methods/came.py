"""CAME."""

from dataclasses import dataclass

from ...core.contracts import Codec
from ...core.registry import make
from ...parts.rules.came import CAME
from ..routes import Route
from ..treatment import Treatment
from ._options import Places
from ._rates import PRETRAIN, beside_adamw

__all__ = ["CAMEPolicy"]


@dataclass(frozen=True)
class CAMEPolicy(Places):
    """CAME on everything (Luo et al. 2023): momentum, weighted down where updates stray from it.

    lr: 0.5 to 0.9 times AdamW's, with warm-up: first steps are 11 times as long as lr says, or 1.1 times with
    bias_correction=True. betas, eps, clip_threshold, bias_correction: of the rule; codec keeps the momentum.
    embeddings, norms, biases, head, adapters: full, free (signSGD) or frozen.
    """

    betas: tuple[float, float, float] = (0.9, 0.999, 0.9999)
    eps: tuple[float, float] = (1e-30, 1e-16)
    clip_threshold: float = 1.0
    bias_correction: bool = False
    codec: str | Codec = "fp32"
    start_from = beside_adamw(0.7, "as the paper has 0.5 to 0.9 times", pretrain=PRETRAIN(1e-4))

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything is state-full, but for quantized weights, which are frozen."""
        rule = CAME(self.betas, self.eps, self.clip_threshold, self.bias_correction)
        body = Treatment(full=rule, codec=make("codecs", self.codec))
        return self.placed(body)
