"""Simultaneous perturbation: the gradient along random directions, from two losses each."""

from dataclasses import dataclass

from ...core.contracts import ProbeScheme, stream
from ...core.errors import HybridOptError
from ...core.numerics.directions import Direction
from ._check import check

__all__ = ["SPSA"]


@dataclass(frozen=True)
class SPSA:
    """n-SPSA (Spall 1992), the gradient of MeZO (Malladi et al. 2023, Def. 1 and 2).

    g = 1/n sum_k (l(theta + eps z_k) - l(theta - eps z_k)) / (2 eps) z_k, with directions that are never kept.

    eps: how far the weights are shifted. samples: n. kind: of directions, "rademacher" (+1 and -1, all of one length)
    or "gaussian". clip: largest |projected gradient| (DDC of QZO). pool: so many different directions in all, taken
    at random, so that a run can be replayed in `pool` passes (FedKSeed, Qin et al. 2024); None: new ones every step.
    conservative: try the step, its opposite and none, and keep the best (ZO-SGD-Cons of ZO-Bench, Zhang et al. 2024).
    """

    eps: float = 1e-3
    samples: int = 1
    kind: str = "rademacher"
    clip: float | None = None
    pool: int | None = None
    conservative: bool = False
    backward = False
    share = 0.0
    update_gap = 0
    exact = True

    def __post_init__(self):
        check(self, "SPSA")
        if not isinstance(self.conservative, bool):
            raise HybridOptError(f"SPSA: conservative={self.conservative!r} is not allowed; give True or False")
        if self.conservative and self.samples > 1:
            raise HybridOptError(f"SPSA: conservative=True tries one step; got samples={self.samples}, take 1")

    @property
    def scheme(self):
        """Two losses a direction."""
        return ProbeScheme(self.samples, conservative=self.conservative)

    def slots(self, shape):
        """None: directions are never kept."""
        return {}

    def sample(self, basis, draw):
        """Nothing to draw."""

    def noise(self, draw, shape, index, basis):
        """Every element its own sign, or normal number."""
        step = draw.step if self.pool is None else stream(draw.seed, "pool", draw.step, index) % self.pool
        return Direction(stream(draw.seed, draw.name, "z"), step, index if self.pool is None else 0, self.kind)

    def weights(self, slopes):
        """Projected gradients, clipped, over n."""
        limit = float("inf") if self.clip is None else self.clip
        return tuple(max(-limit, min(limit, slope / self.eps)) / len(slopes) for slope in slopes)
