"""Addax's gradient: a little of SPSA's, the rest from the backward pass."""

from dataclasses import dataclass, field

from ...core.contracts import Source
from ...core.errors import HybridOptError, check_number
from .backprop import Backprop
from .spsa import SPSA

__all__ = ["Mix"]


@dataclass(frozen=True)
class Mix:
    """Addax (Li et al. 2025, eq. 3): g = alpha g0 z + (1 - alpha) g1, for theta <- theta - lr g.

    g0 z: of `zeroth`, from the losses that `probe` has measured before the backward pass; g1: of the backward pass.
    Both at the same weights. As |z| is sqrt(d) for d parameters, alpha wants to be about 1/sqrt(d).
    """

    alpha: float = 1e-3
    zeroth: Source = field(default_factory=SPSA)
    backward = True

    def __post_init__(self):
        check_number("Mix", "alpha", self.alpha, 0, 1)
        if getattr(self.zeroth, "scheme", None) is None or self.zeroth.backward:
            raise HybridOptError(f"Mix: zeroth={self.zeroth!r} takes no probes; give spsa, fzoo, lezo or subzero")
        if self.zeroth.scheme.conservative:
            raise HybridOptError("Mix: conservative=True tries zeroth-order steps alone; take conservative=False")
        if self.alpha == 0:
            raise HybridOptError(f"Mix: alpha=0 probes for nothing; take {type(Backprop()).__name__.lower()} (IP-SGD)")

    @property
    def share(self):
        """1 - alpha of the backward pass."""
        return 1 - self.alpha

    @property
    def scheme(self):
        """The other's."""
        return self.zeroth.scheme

    @property
    def eps(self):
        """The other's."""
        return self.zeroth.eps

    @property
    def update_gap(self):
        """The other's."""
        return self.zeroth.update_gap

    @property
    def exact(self):
        """No: the backward pass is not."""
        return False

    def slots(self, shape):
        """The other's."""
        return self.zeroth.slots(shape)

    def sample(self, basis, draw):
        """The other's."""
        self.zeroth.sample(basis, draw)

    def noise(self, draw, shape, index, basis):
        """The other's."""
        return self.zeroth.noise(draw, shape, index, basis)

    def weights(self, slopes):
        """alpha of the other's."""
        return tuple(self.alpha * w for w in self.zeroth.weights(slopes))
