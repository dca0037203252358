"""Simultaneous perturbation: the gradient along random directions, from two losses each."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...core.contracts import Draw, Noise, ProbeScheme, Shape, Source, State, computed, stream
from ...core.errors import HybridOptError, check_count, check_number
from ...core.numerics.directions import Direction
from ._check import check

__all__ = ["SPSA"]


@dataclass(frozen=True)
class SPSA(Source):
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
    exact = True

    def __post_init__(self) -> None:
        check("SPSA", self.eps, self.samples, self.kind)
        if self.clip is not None:
            check_number("SPSA", "clip", self.clip, 0)
            if self.clip == 0:
                raise HybridOptError("clip=0 would stop all training; give a number > 0, or None", "SPSA")
        if self.pool is not None:
            check_count("SPSA", "pool", self.pool, 1, 2**32)  # they are numbered by 32 bits
        if not isinstance(self.conservative, bool):
            raise HybridOptError(f"conservative={self.conservative!r} is not allowed; give True or False", "SPSA")
        if self.conservative and self.samples > 1:
            raise HybridOptError(f"conservative=True tries one step; got samples={self.samples}, take 1", "SPSA")

    @computed
    def scheme(self) -> ProbeScheme:
        """Return two losses a direction."""
        return ProbeScheme(self.samples, conservative=self.conservative)

    def noise(self, draw: Draw, shape: Shape, index: int, basis: State) -> Noise:
        """Return a sign, or a normal number, for every element.

        Args:
            draw: the random choices of this parameter in this step.
            shape: not read.
            index: which direction of the step.
            basis: empty.
        """
        step = draw.step if self.pool is None else stream(draw.seed, "pool", draw.step, index) % self.pool
        return Direction(stream(draw.seed, draw.name, "z"), step, index if self.pool is None else 0, self.kind)

    def weights(self, slopes: Sequence[float]) -> tuple[float, ...]:
        """Return the projected gradients, clipped, over their number."""
        limit = float("inf") if self.clip is None else self.clip
        return tuple(max(-limit, min(limit, slope / self.eps)) / len(slopes) for slope in slopes)
