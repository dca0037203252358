"""Zeroth-order Adam."""

from dataclasses import dataclass
from functools import cached_property

from ...core.contracts import Codec
from ...core.registry import make
from ...parts.rules.adamw import AdamW
from ...parts.sources.spsa import SPSA
from ...parts.splits.whole import Whole
from ._zeroth import everything_by

__all__ = ["ZOAdam"]


@dataclass(frozen=True)
class ZOAdam:
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
    embeddings: str = "full"
    norms: str = "full"
    biases: str = "full"
    head: str = "full"
    adapters: str = "full"

    def __post_init__(self):
        self.routes  # noqa: B018  bad options show now

    @cached_property
    def routes(self):
        """Everything by AdamW, quantized weights frozen."""
        source, codec = SPSA(self.eps, self.samples, self.kind), make("codecs", self.codec)
        return everything_by(self, source, full=AdamW(self.betas, self.adam_eps), split=Whole(), codec=codec)
