"""Zeroth-order SGD with momentum."""

from dataclasses import dataclass
from functools import cached_property

from ...core.contracts import Codec
from ...core.registry import make
from ...parts.rules.momentum import Momentum
from ...parts.sources.spsa import SPSA
from ...parts.splits.whole import Whole
from ._zeroth import everything_by

__all__ = ["ZOMomentum"]


@dataclass(frozen=True)
class ZOMomentum:
    """ZO-SGD-MMT (ZO-Bench, Zhang et al. 2024): SGD with momentum on MeZO's estimate; 4 bytes of state a parameter.

    eps, samples, kind: as of mezo; codec keeps the momentum. embeddings, norms, biases, head, adapters: full, free
    (without momentum) or frozen.
    """

    momentum: float = 0.9
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
        """Everything with momentum, quantized weights frozen."""
        source, codec = SPSA(self.eps, self.samples, self.kind), make("codecs", self.codec)
        return everything_by(self, source, full=Momentum(self.momentum), split=Whole(), codec=codec)
