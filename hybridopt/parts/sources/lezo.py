"""LeZO's gradient: a few layers at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ...core.contracts import Draw, Noise, Population, ProbeScheme, Shape, Source, State, computed, layer_of, portion
from ...core.errors import HybridOptError, check_share
from ._along import elementwise, over
from ._check import check

__all__ = ["LeZO"]


@dataclass(frozen=True)
class LeZO(Source):
    """LeZO (Wang et al. 2024, Alg. 1): SPSA on a share `density` of the layers, chosen anew in every step.

    A layer is everything below the first numbered module of a name; what lies outside of layers takes part in every
    step. Every layer has its turn before any has its second. The paper drops 75 % of the layers. The other options are
    those of SPSA.
    """

    density: float = 0.25
    eps: float = 1e-3
    samples: int = 1
    kind: str = "rademacher"
    exact = True

    def __post_init__(self) -> None:
        check("LeZO", self.eps, self.samples, self.kind)
        check_share("LeZO", "density", self.density)
        if self.density == 0:
            raise HybridOptError("density=0 leaves no layer to train; give a share in (0, 1]", "LeZO")

    @computed
    def scheme(self) -> ProbeScheme:
        """Return two losses a direction."""
        return ProbeScheme(self.samples)

    def noise(self, draw: Draw, shape: Shape, index: int, basis: State) -> Noise | None:
        """Return a number for every element; None for the layers that are not in turn.

        Args:
            draw: the random choices of this parameter in this step.
            shape: not read.
            index: which direction of the step.
            basis: empty.
        """
        layer = layer_of(draw.name)
        if layer is not None and layer not in _in_turn(self.density, draw.seed, draw.step, draw.population):
            return None
        return elementwise(draw, index, self.kind)

    def weights(self, slopes: Sequence[float]) -> tuple[float, ...]:
        """Return the projected gradients over their number."""
        return over(slopes, self.eps)


@lru_cache(maxsize=256)
def _in_turn(density: float, seed: int, step: int, population: Population) -> frozenset[str]:
    layers = sorted({layer for name, _ in population.members if (layer := layer_of(name))})
    turn = Draw(seed, "layers", window=step).turn(len(layers), portion(density, len(layers)))
    return frozenset(layers[i] for i in turn.tolist())
