"""Zeroth-order SGD with momentum."""

from dataclasses import dataclass

from ...core.contracts import Codec
from ...core.registry import make
from ...parts.rules.momentum import Momentum
from ...parts.sources.spsa import SPSA
from ...parts.splits.whole import Whole
from ..routes import Route
from ._options import Places
from ._rates import AS_MEZO
from ._zeroth import along

__all__ = ["ZOMomentum"]


@dataclass(frozen=True)
class ZOMomentum(Places):
    """ZO-SGD-MMT (ZO-Bench, Zhang et al. 2024): SGD with momentum on MeZO's estimate; 4 bytes of state a parameter.

    eps, samples, kind: as of mezo; codec keeps the momentum. embeddings, norms, biases, head, adapters: full, free
    (without momentum) or frozen.
    """

    momentum: float = 0.9
    eps: float = 1e-3
    samples: int = 1
    kind: str = "rademacher"
    codec: str | Codec = "fp32"
    start_from = AS_MEZO

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything has momentum, but for quantized weights, which are frozen."""
        source, codec = SPSA(self.eps, self.samples, self.kind), make("codecs", self.codec)
        return self.placed(along(source, full=Momentum(self.momentum), split=Whole(), codec=codec), other="full")
