"""Adafactor."""

from dataclasses import dataclass

from ...core.contracts import Codec, StartFrom, computed
from ...core.registry import make
from ...parts.rules.adafactor import Adafactor
from ..routes import Route
from ..treatment import Treatment
from ._options import Places
from ._rates import PRETRAIN_128K, beside_adamw, guessed, paper

__all__ = ["AdafactorPolicy"]

OWN = StartFrom(*3 * (paper(1.0, "for its own step sizes"),))
SCALED = StartFrom(paper(1e-2, "relative to each matrix"), *2 * (guessed(1e-3, "a tenth of that of pre-training"),))
UNSCALED = beside_adamw(1, "as in pre-training", pretrain=PRETRAIN_128K(3e-3))


@dataclass(frozen=True)
class AdafactorPolicy(Places):
    """Adafactor on everything (Shazeer & Stern 2018).

    With scale_parameter, lr is relative to each matrix (1e-3 is common); without, it is of the size of AdamW's. The
    paper's own step sizes are relative_step=True with lr=1. eps, clip_threshold, decay_rate, beta1: of the rule; codec
    keeps the momentum that beta1 asks for. embeddings, norms, biases, head, adapters: full, free (signSGD) or frozen.
    """

    eps: tuple[float, float] = (1e-30, 1e-3)
    clip_threshold: float = 1.0
    decay_rate: float = -0.8
    beta1: float | None = None
    scale_parameter: bool = True
    relative_step: bool = False
    codec: str | Codec = "fp32"

    @computed
    def start_from(self) -> StartFrom:
        """Return the rates to start from, which depend on what steps are relative to."""
        return OWN if self.relative_step else SCALED if self.scale_parameter else UNSCALED

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything is state-full, but for quantized weights, which are frozen."""
        rule = Adafactor(
            eps=self.eps,
            clip_threshold=self.clip_threshold,
            decay_rate=self.decay_rate,
            beta1=self.beta1,
            scale_parameter=self.scale_parameter,
            relative_step=self.relative_step,
        )
        body = Treatment(full=rule, codec=make("codecs", self.codec))
        return self.placed(body)
