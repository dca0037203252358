"""LeZO's gradient: a few layers at a time."""

from dataclasses import dataclass
from functools import lru_cache

from ...core.contracts import Draw, ProbeScheme, layer_of, portion
from ...core.errors import HybridOptError, check_number
from ._along import elementwise, over
from ._check import check

__all__ = ["LeZO"]


@dataclass(frozen=True)
class LeZO:
    """LeZO (Wang et al. 2024, Alg. 1): SPSA on a share `density` of the layers, chosen anew in every step.

    A layer is everything below the first numbered module of a name; what lies outside of layers takes part in every
    step. Every layer has its turn before any has its second. The paper drops 75 % of the layers. The other options are
    those of SPSA.
    """

    density: float = 0.25
    eps: float = 1e-3
    samples: int = 1
    kind: str = "rademacher"
    backward = False
    share = 0.0
    update_gap = 0
    exact = True

    def __post_init__(self):
        check(self, "LeZO")
        check_number("LeZO", "density", self.density, 0, 1)
        if self.density == 0:
            raise HybridOptError("LeZO: density=0 leaves no layer to train; give a share in (0, 1]")

    @property
    def scheme(self):
        """Two losses a direction."""
        return ProbeScheme(self.samples)

    def slots(self, shape):
        """None: directions are never kept."""
        return {}

    def sample(self, basis, draw):
        """Nothing to draw."""

    def noise(self, draw, shape, index, basis):
        """None for the layers that are not in turn."""
        layer = layer_of(draw.name)
        if layer is not None and layer not in _in_turn(self.density, draw.seed, draw.step, draw.population):
            return None
        return elementwise(draw, index, self.kind)

    def weights(self, slopes):
        """Projected gradients over n."""
        return over(slopes, self.eps)


@lru_cache(maxsize=256)
def _in_turn(density, seed, step, population):
    layers = sorted({layer for name, _ in population.members if (layer := layer_of(name))})
    turn = Draw(seed, "layers", window=step).turn(len(layers), portion(density, len(layers)))
    return frozenset(layers[i] for i in turn.tolist())
