"""FZOO's gradient: many directions from one side, in units of the losses' spread."""

from dataclasses import dataclass

from ...core.contracts import ProbeScheme
from ...core.errors import HybridOptError
from ._along import elementwise, over
from ._check import check

__all__ = ["FZOO"]


@dataclass(frozen=True)
class FZOO:
    """FZOO (Dang et al. 2025, Alg. 1): g / sigma, g = 1/(N eps) sum_i (l(theta + eps u_i) - l(theta)) u_i.

    sigma is the standard deviation of the N shifted losses (with N - 1), so that steps shrink where the loss is steep;
    u_i are Rademacher directions. samples: N, at least 2; a step costs N + 1 losses. Equal losses give no step.
    """

    eps: float = 1e-4
    samples: int = 8
    backward = False
    share = 0.0
    update_gap = 0
    exact = True

    def __post_init__(self):
        check(self, "FZOO")
        if self.samples < 2:
            raise HybridOptError(f"FZOO: samples={self.samples} has no standard deviation; give at least 2")

    @property
    def scheme(self):
        """One loss a direction, and one for all."""
        return ProbeScheme(self.samples, two_sided=False, normalized=True)

    def slots(self, shape):
        """None: directions are never kept."""
        return {}

    def sample(self, basis, draw):
        """Nothing to draw."""

    def noise(self, draw, shape, index, basis):
        """Every element its own sign."""
        return elementwise(draw, index)

    def weights(self, slopes):
        """Over N and eps; sigma is in the slopes already."""
        return over(slopes, self.eps)
