"""Zeroth-order Adam."""

from dataclasses import dataclass

from ...core.contracts import Codec, StartFrom
from ...core.registry import make
from ...parts.rules.adamw import AdamW
from ...parts.sources.spsa import SPSA
from ...parts.splits.whole import Whole
from ..routes import Route
from ._options import Places
from ._rates import paper
from ._zeroth import along

__all__ = ["ZOAdam"]


@dataclass(frozen=True)
class ZOAdam(Places):
    """ZO-Adam (ZO-Bench, Zhang et al. 2024): AdamW on MeZO's estimate; 8 bytes of state a parameter.

    eps, samples, kind: as of mezo (adam_eps is AdamW's); codec keeps the moments. embeddings, norms, biases, head,
    adapters: full, free (SGD) or frozen.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8
    eps: float = 1e-3
    samples: int = 1
    kind: str = "rademacher"
    codec: str | Codec = "fp32"
    start_from = StartFrom(None, paper(1e-5, "the middle of its grid"), paper(1e-4, "of its grid"))

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything goes by AdamW, but for quantized weights, which are frozen."""
        source, codec = SPSA(self.eps, self.samples, self.kind), make("codecs", self.codec)
        body = along(source, full=AdamW(self.betas, self.adam_eps), split=Whole(), codec=codec)
        return self.placed(body, other="full")
