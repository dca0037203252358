"""In which order kinds of layers follow one another: whether a few layers tell of all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...model.roles import clean
from ..subject.model import layers

__all__ = ["Rhythm", "rhythm", "rhythm_of"]


@dataclass(frozen=True)
class Rhythm:
    """`first` layers of any kind, then `period` kinds in turns, to the end."""

    first: int = 1
    period: int = 1

    @property
    def beginning(self) -> int:
        """Layers up to the end of the first turn."""
        return self.first + self.period

    def short(self, depth: int) -> tuple[int, int]:
        """Of so many layers are the models that stand for one of `depth`: they end as it does."""
        one = self.beginning + (depth - self.beginning) % self.period
        return one, one + max(2, self.period)

    def between(self, layer: int, depth: int) -> tuple[int, int]:
        """The layers of a layer's kind in the first turn and in the last."""
        last = depth - self.period
        return self.first + (layer - self.first) % self.period, last + (layer - last) % self.period

    def fits(self, kinds: Sequence[int]) -> bool:
        """Is that their order?"""
        return all(kinds[i] == kinds[i + self.period] for i in range(self.first, len(kinds) - self.period))


def rhythm(model: nn.Module, config: Any, used: Mapping[str, int], depth: int) -> Rhythm | None:
    """Of a model's layers; None where only all of them tell.

    config: transformers'. used: a number for each parameter that is trained in the way that is simulated.
    """
    stack = layers(model, depth)
    if stack is None:
        return None
    path = clean(next(name for name, module in model.named_modules() if module is stack))
    settings = _settings(config, depth)
    kinds = [(_layer(layer, f"{path}.{i}", used), [s[i] for s in settings]) for i, layer in enumerate(stack)]
    return rhythm_of([kinds.index(kind) for kind in kinds])


def rhythm_of(kinds: Sequence[int]) -> Rhythm | None:
    """The one that takes the fewest layers; None if the whole takes no more than these."""
    depth = len(kinds)
    sizes = range(1, depth // 2)
    known = [(sum(r.short(depth)), r) for r in (Rhythm(first, period) for first in sizes for period in sizes)]
    cheap = [(cost, r) for cost, r in known if r.short(depth)[1] < depth and cost <= depth + 1]
    return next((r for _, r in sorted(cheap, key=lambda found: found[0]) if r.fits(kinds)), None)


def _layer(layer, path, used) -> tuple:
    """What a layer is made of, and what of it is trained."""
    own = [(name, p.shape, p.dtype, used.get(clean(f"{path}.{name}"))) for name, p in layer.named_parameters()]
    return own, [type(module) for module in layer.modules()]


def _settings(config, depth) -> list[list]:
    """Lists that say something of each layer. Two kinds in turns need not be told apart: one layer of each follows the
    first, and what they take together is what counts."""
    found = (x for x in vars(config.get_text_config()).values() if isinstance(x, list) and len(x) == depth)
    return [x for x in found if x != list(range(depth)) and not Rhythm(1, 2).fits(x)]
