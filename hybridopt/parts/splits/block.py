"""Whole parameters, or whole layers, in turns."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

from ...core.contracts import Density, Draw, Part, Population, Shape, Split, layer_of, stream
from ...core.errors import check_choice, check_count
from . import _share
from .empty import Empty
from .whole import Whole

__all__ = ["Block"]

ORDERS = ("random", "ascending", "descending", "mirror")
UNITS = ("tensor", "layer")


@dataclass(frozen=True)
class Block(Split):
    """Whole parameters take turns in being state-full (FRUGAL, blockwise; BAdam with unit="layer", blocks=1).

    density: share of the elements that share the split; a window never holds more, except that it holds at least
        one block. `blocks` asks for a number of blocks instead.
    order: "random" (a new order each round), "ascending", "descending", or "mirror" (from both ends to the middle).
    unit: "tensor", or "layer" (everything below the first numbered module of the name is one block).
    Every block has its turn before any has its second, unless the density changes on the way.
    """

    density: Density = 0.25
    update_gap: int = 200
    order: str = "random"
    unit: str = "tensor"
    blocks: int | None = None
    by_turns = True

    def __post_init__(self) -> None:
        _share.check("Block", self.density, self.update_gap)
        check_choice("Block", "order", self.order, ORDERS)
        check_choice("Block", "unit", self.unit, UNITS)
        if self.blocks is not None:
            check_count("Block", "blocks", self.blocks, 1, 2**31)

    def constant(self) -> float | None:
        """Return the density if it is one number for all windows, and not a number of blocks; else None."""
        return None if self.blocks is not None else super().constant()

    def at(self, draw: Draw, shape: Shape) -> Part:
        """Return the whole of the parameter or none of it, by whose turn it is."""
        if self.blocks is None:
            density, end = _share.limit(self.density, draw)
            if end:
                return end
        chosen = _rounds(self, draw.seed, draw.population)(draw.window)
        return Whole() if _unit(draw.name, self.unit) in chosen else Empty()


def _unit(name: str, unit: str) -> str:
    return unit == "layer" and layer_of(name) or name


@lru_cache(maxsize=64)
def _rounds(split: Block, seed: int, population: Population) -> Callable[[int], frozenset[str]]:
    """Return a function from window to its blocks, which are worked out in turn and remembered."""
    sizes: dict[str, int] = {}
    for name, elements in population.members:
        key = _unit(name, split.unit)
        sizes[key] = sizes.get(key, 0) + elements
    windows: list[frozenset[str]] = []
    walk = _windows(split, seed, sizes)

    def window(index: int) -> frozenset[str]:
        while len(windows) <= index:
            windows.append(next(walk))
        return windows[index]

    return window


def _windows(split: Block, seed: int, sizes: dict[str, int]) -> Iterator[frozenset[str]]:
    waiting: list[str] = []
    turns = (_order(split.order, list(sizes), seed, turn) for turn in count())
    for window in count():
        budget, most = _budget(split, window, sum(sizes.values()), len(sizes))
        chosen: list[str] = []
        used = 0
        for _ in range(2):  # what is left of this round, then the next round's blocks
            for name in list(waiting):
                fits = len(chosen) < most and used + sizes[name] <= budget
                if name not in chosen and (fits or not chosen):
                    waiting.remove(name)
                    chosen.append(name)
                    used += sizes[name]
            if waiting:
                break
            waiting = list(next(turns))
        yield frozenset(chosen)


def _budget(split: Block, window: int, total: int, blocks: int) -> tuple[float, int]:
    if split.blocks is not None:
        return total, min(split.blocks, blocks)
    density = split.density(window * split.update_gap) if callable(split.density) else split.density
    return density * total, blocks


def _order(order: str, names: list[str], seed: int, turn: int) -> list[str]:
    if order == "random":
        names.sort()  # so that the order of the parameters does not matter
        random.Random(stream(seed, "block", turn)).shuffle(names)
    elif order == "descending":
        names.reverse()
    elif order == "mirror":
        names = [names[i // 2] if i % 2 == 0 else names[-1 - i // 2] for i in range(len(names))]
    return names
