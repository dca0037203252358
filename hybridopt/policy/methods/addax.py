"""Addax."""

from dataclasses import dataclass

from ...core.contracts import StartFrom, computed
from ...core.errors import HybridOptError, check_number
from ...parts.sources.mix import Mix
from ...parts.sources.spsa import SPSA
from ..routes import Route
from ._options import FreePlaces
from ._rates import ADDAX, guessed
from ._zeroth import along

__all__ = ["Addax"]


@dataclass(frozen=True)
class Addax(FreePlaces):
    """Addax (Li et al. 2025, Alg. 1): theta <- theta - lr (alpha g0 z + (1 - alpha) g1), with no state at all.

    g0 z by probes of the loss on long texts, g1 by backward passes on short ones, both at the same weights:
    `optimizer.probe(long)`, `short_loss.backward()`, `optimizer.step()`; release="fused" frees every gradient at once.
    alpha: as |z| is sqrt(d) for d parameters, about 1/sqrt(d). Clearer: zo_lr = lr alpha and fo_lr = lr (1 - alpha),
    which say alpha and lr. eps, samples, kind, clip: as of mezo. embeddings, norms, biases, head, adapters: free, full
    (AdamW on the mixture) or frozen.
    """

    alpha: float | None = None
    eps: float = 1e-3
    samples: int = 1
    kind: str = "rademacher"
    clip: float | None = None
    zo_lr: float | None = None
    fo_lr: float | None = None
    start_from = StartFrom(None, ADDAX(0.01, scaled=False), guessed(0.01, "as for all weights"))

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything is state-free, but for quantized weights, which are frozen."""
        source = SPSA(self.eps, self.samples, self.kind, self.clip)
        return self.placed(along(Mix(self._alpha(), source)))

    @computed
    def lr(self) -> float | None:
        """Return the learning rate that zo_lr and fo_lr say; None without them."""
        return None if self.zo_lr is None or self.fo_lr is None else self.zo_lr + self.fo_lr

    def _alpha(self) -> float:
        given = {"zo_lr": self.zo_lr, "fo_lr": self.fo_lr}
        if self.zo_lr is None and self.fo_lr is None:
            return 1e-3 if self.alpha is None else self.alpha
        if self.alpha is not None or self.zo_lr is None or self.fo_lr is None:
            raise HybridOptError(f"give alpha, or both zo_lr and fo_lr; got alpha={self.alpha!r}, {given}", "addax")
        for name, value in given.items():
            check_number("addax", name, value, 0)
        return self.zo_lr / ((self.zo_lr + self.fo_lr) or 1)
