"""AdaLomo."""

from dataclasses import dataclass

from ...core.contracts import StartFrom
from ...parts.rules.adalomo import AdaLomo
from ..routes import Route
from ..treatment import Treatment
from ._options import Places
from ._rates import PRETRAIN_128K, paper

__all__ = ["AdaLomoPolicy"]


@dataclass(frozen=True)
class AdaLomoPolicy(Places):
    """AdaLomo on everything (Lv et al. 2023): a factored second moment, updates in proportion to the weights.

    lr is relative to each matrix: 5e-4 to 1e-3. No clipping of the global norm is needed. release="fused" is the
    method's other half. eps, clip_threshold, decay_rate: of the rule. embeddings, norms, biases, head, adapters: full,
    free (signSGD) or frozen. Matrices of zeros, as LoRA's B at first, start with steps of lr * eps[1].
    """

    eps: tuple[float, float] = (1e-30, 1e-3)
    clip_threshold: float = 1.0
    decay_rate: float = -0.8
    start_from = StartFrom(PRETRAIN_128K(0.1, scaled=False), paper(5e-4), paper(5e-4))

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything is state-full, but for quantized weights, which are frozen."""
        body = Treatment(full=AdaLomo(self.eps, self.clip_threshold, self.decay_rate))
        return self.placed(body)
