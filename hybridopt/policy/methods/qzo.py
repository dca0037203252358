"""QZO."""

from dataclasses import dataclass

from ...core.contracts import StartFrom
from ...parts.rules.sgd import SGD
from ...parts.sources.spsa import SPSA
from ...parts.splits.empty import Empty
from ...parts.stores.nonnegative import Nonnegative
from ..routes import Route, place
from ..treatment import Treatment
from ._options import Places
from ._rates import guessed, paper

__all__ = ["QZO"]


@dataclass(frozen=True)
class QZO(Places):
    """QZO (Shang et al. 2025): MeZO on the scales of a 4- or 8-bit base, whose codes stay as they are.

    Directional derivatives are clipped to `clip` (DDC). eps, samples, kind: as of mezo; the paper's settings are lr
    1e-7, eps 1e-3, clip 50 to 200. Scales of nf4 are kept in float32: half a bit a weight. Needs quantization="nf4",
    "fp4" or "int8". embeddings, norms, biases, head, adapters: free (MeZO on them, too) or frozen.
    """

    eps: float = 1e-3
    samples: int = 1
    kind: str = "rademacher"
    clip: float | None = 100.0
    embeddings = norms = biases = head = "frozen"
    adapters = "free"
    opens_scales = True
    start_from = StartFrom(None, paper(1e-7), guessed(1e-7, "as for scales alone"))

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes: scales by SPSA, everything that is not quantized as the options say."""
        source = SPSA(self.eps, self.samples, self.kind, self.clip)
        body = Treatment(source=source, free=SGD(), split=Empty())
        scales = Treatment(source=source, free=SGD(), split=Empty(), store=Nonnegative(), weight_decay=0.0)
        return (
            Route(scales, role="scales"),
            *place(body, **self.roles(), linear="frozen", conv="frozen", other="frozen"),
        )
