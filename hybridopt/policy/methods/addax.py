"""Addax."""

from dataclasses import dataclass
from functools import cached_property

from ...core.errors import HybridOptError, check_number
from ...parts.sources.mix import Mix
from ...parts.sources.spsa import SPSA
from ._zeroth import everything_by

__all__ = ["Addax"]


@dataclass(frozen=True)
class Addax:
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
    embeddings: str = "free"
    norms: str = "free"
    biases: str = "free"
    head: str = "free"
    adapters: str = "free"

    def __post_init__(self):
        self.routes  # noqa: B018  bad options show now

    @cached_property
    def routes(self):
        """Everything state-free, quantized weights frozen."""
        source = SPSA(self.eps, self.samples, self.kind, self.clip)
        return everything_by(self, Mix(self._alpha(), source))

    @property
    def lr(self):
        """The learning rate that zo_lr and fo_lr say; None without them."""
        return None if self.zo_lr is None else self.zo_lr + self.fo_lr

    def _alpha(self):
        given = {"zo_lr": self.zo_lr, "fo_lr": self.fo_lr}
        if given == {"zo_lr": None, "fo_lr": None}:
            return 1e-3 if self.alpha is None else self.alpha
        if self.alpha is not None or None in given.values():
            raise HybridOptError(f"addax: give alpha, or both zo_lr and fo_lr; got alpha={self.alpha!r}, {given}")
        for name, value in given.items():
            check_number("addax", name, value, 0)
        return self.zo_lr / ((self.zo_lr + self.fo_lr) or 1)
