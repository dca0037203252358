"""FZOO's gradient: many directions from one side, in units of the losses' spread."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...core.contracts import Draw, Noise, ProbeScheme, Shape, Source, State, computed
from ...core.errors import HybridOptError
from ._along import elementwise, over
from ._check import check

__all__ = ["FZOO"]


@dataclass(frozen=True)
class FZOO(Source):
    """FZOO (Dang et al. 2025, Alg. 1): g / sigma, g = 1/(N eps) sum_i (l(theta + eps u_i) - l(theta)) u_i.

    sigma is the standard deviation of the N shifted losses (with N - 1), so that steps shrink where the loss is steep;
    u_i are Rademacher directions. samples: N, at least 2; a step costs N + 1 losses. Equal losses give no step.
    """

    eps: float = 1e-4
    samples: int = 8
    exact = True

    def __post_init__(self) -> None:
        check("FZOO", self.eps, self.samples)
        if self.samples < 2:
            raise HybridOptError(f"samples={self.samples} has no standard deviation; give at least 2", "FZOO")

    @computed
    def scheme(self) -> ProbeScheme:
        """Return one loss a direction, and one for all."""
        return ProbeScheme(self.samples, two_sided=False, normalized=True)

    def noise(self, draw: Draw, shape: Shape, index: int, basis: State) -> Noise:
        """Return signs, one for every element.

        Args:
            draw: of the parameter and the step.
            shape: not read, as a direction has as many signs as are asked for.
            index: i, from 0.
            basis: empty.
        """
        return elementwise(draw, index)

    def weights(self, slopes: Sequence[float]) -> tuple[float, ...]:
        """Return slopes over N and eps; sigma is in them already."""
        return over(slopes, self.eps)
