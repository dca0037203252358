"""Addax's gradient: a little of SPSA's, the rest from the backward pass."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...core.contracts import Draw, Noise, ProbeScheme, Shape, Slot, Source, State, computed
from ...core.contracts.check import missing
from ...core.errors import HybridOptError, check_number
from .spsa import SPSA

__all__ = ["Mix"]


@dataclass(frozen=True)
class Mix(Source):
    """Addax (Li et al. 2025, eq. 3): g = alpha g0 z + (1 - alpha) g1, for theta <- theta - lr g.

    g0 z: of `zeroth`, from the losses that `probe` has measured before the backward pass; g1: of the backward pass.
    Both at the same weights. As |z| is sqrt(d) for d parameters, alpha wants to be about 1/sqrt(d).
    """

    alpha: float = 1e-3
    zeroth: Source = field(default_factory=SPSA)
    backward = True

    def __post_init__(self) -> None:
        check_number("Mix", "alpha", self.alpha, 0, 1)
        if missing(self.zeroth, Source) or self.zeroth.scheme is None or self.zeroth.backward:
            raise HybridOptError(f"zeroth={self.zeroth!r} takes no probes; give spsa, fzoo, lezo or subzero", "Mix")
        if self.zeroth.scheme.conservative:
            raise HybridOptError("conservative=True tries zeroth-order steps alone; take conservative=False", "Mix")
        if self.alpha == 0:
            raise HybridOptError("alpha=0 probes for nothing; take policy='ip_sgd', or source='backprop'", "Mix")

    @computed
    def share(self) -> float:
        """Return 1 - alpha, of the backward pass's gradient."""
        return 1 - self.alpha

    @computed
    def scheme(self) -> ProbeScheme | None:
        """Return how `zeroth` is probed."""
        return self.zeroth.scheme

    @computed
    def eps(self) -> float:
        """Return how far `zeroth` shifts the weights."""
        return self.zeroth.eps

    @computed
    def update_gap(self) -> int:
        """Return how long the basis of `zeroth` stays."""
        return self.zeroth.update_gap

    @computed
    def kind(self) -> str:
        """Return the kind of directions of `zeroth`."""
        return self.zeroth.kind

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Declare the basis of `zeroth`."""
        return self.zeroth.slots(shape)

    def sample(self, basis: State, draw: Draw) -> None:
        """Fill the basis of `zeroth`."""
        self.zeroth.sample(basis, draw)

    def noise(self, draw: Draw, shape: Shape, index: int, basis: State) -> Noise | None:
        """Return a direction of `zeroth`.

        Args:
            draw: the random choices of this parameter in this step.
            shape: of the parameter.
            index: which direction of the step.
            basis: that of `zeroth`.
        """
        return self.zeroth.noise(draw, shape, index, basis)

    def weights(self, slopes: Sequence[float]) -> tuple[float, ...]:
        """Return alpha times the weights of `zeroth`."""
        return tuple(self.alpha * w for w in self.zeroth.weights(slopes))
