"""Find in which order kinds of layers repeat, so that models of a few layers stand for one of all layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...model.roles import clean
from ..subject.model import layers

__all__ = ["Rhythm", "rhythm", "rhythm_of"]


@dataclass(frozen=True)
class Rhythm:
    """An order of layers: `first` layers of any kind, then `period` kinds that take turns until the last layer."""

    first: int = 1
    period: int = 1

    @property
    def beginning(self) -> int:
        """Return the number of layers up to the end of the first turn."""
        return self.first + self.period

    def short(self, depth: int) -> tuple[int, int]:
        """Return the depths of the two short models that stand for one of `depth` layers; all end in the same kind."""
        one = self.beginning + (depth - self.beginning) % self.period
        return one, one + max(2, self.period)

    def between(self, layer: int, depth: int) -> tuple[int, int]:
        """Return the indices of the layers of the same kind as `layer` in the first turn and in the last."""
        last = depth - self.period
        return self.first + (layer - self.first) % self.period, last + (layer - last) % self.period

    def fits(self, kinds: Sequence[int]) -> bool:
        """Return whether layers of these kinds, given as numbers in order, follow one another like this."""
        return all(kinds[i] == kinds[i + self.period] for i in range(self.first, len(kinds) - self.period))


def rhythm(model: nn.Module, config: Any, used: Mapping[str, int], depth: int) -> Rhythm | None:
    """Return the order of a model's layers; None where no few layers stand for all of them.

    Args:
        model: on any device, of all layers.
        config: the model's transformers configuration; lists of `depth` entries in it tell layers apart.
        used: by name, a number for each parameter that the simulated pass serves, such as its gradient's bytes.
        depth: number of layers.
    """
    stack = layers(model, depth)
    if stack is None:
        return None
    path = clean(next(name for name, module in model.named_modules() if module is stack))
    settings = _settings(config, depth)
    kinds = [(_layer(layer, f"{path}.{i}", used), [s[i] for s in settings]) for i, layer in enumerate(stack)]
    return rhythm_of([kinds.index(kind) for kind in kinds])


def rhythm_of(kinds: Sequence[int]) -> Rhythm | None:
    """Return the order that fits and needs the fewest layers; None if the whole model needs no more than those."""
    depth = len(kinds)
    sizes = range(1, depth // 2)
    known = [(sum(r.short(depth)), r) for r in (Rhythm(first, period) for first in sizes for period in sizes)]
    cheap = [(cost, r) for cost, r in known if r.short(depth)[1] < depth and cost <= depth + 1]
    return next((r for _, r in sorted(cheap, key=lambda found: found[0]) if r.fits(kinds)), None)


def _layer(layer: nn.Module, path: str, used: Mapping[str, int]) -> tuple[list, list]:
    """Return what a layer consists of: its parameters, with what `used` says of them, and its modules' types."""
    own = [(name, p.shape, p.dtype, used.get(clean(f"{path}.{name}"))) for name, p in layer.named_parameters()]
    return own, [type(module) for module in layer.modules()]


def _settings(config: Any, depth: int) -> list[list]:
    """Return the lists of a configuration that say something of each layer.

    Two kinds in turns need not be told apart: one layer of each follows the first, and their sum is what counts.
    """
    found = (x for x in vars(config.get_text_config()).values() if isinstance(x, list) and len(x) == depth)
    return [x for x in found if x != list(range(depth)) and not Rhythm(1, 2).fits(x)]
