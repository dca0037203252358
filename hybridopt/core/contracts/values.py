"""What parts are given and give back: shapes, slots of state, numbers of a step, random draws."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from ..errors import HybridOptError, check_share

__all__ = [
    "Density",
    "Draw",
    "Numbers",
    "Population",
    "Shape",
    "Slot",
    "State",
    "found",
    "layer_of",
    "portion",
    "stream",
]

Shape = tuple[int, ...]
State = dict[str, Tensor]
Numbers = Mapping[str, float | Tensor]  # by name: floats, or where compiled tensors of shape []; of `settle` tensors
Density = float | Callable[[int], float]


def stream(*parts: object) -> int:
    """Return a number of 63 bits hashed from the repr of `parts`: equal on every rank, machine and run."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


def portion(density: float, total: int) -> int:
    """Return how many of `total` columns, rows, entries or directions a density asks for: none only at density 0."""
    return min(total, max(1, round(density * total))) if density > 0 else 0


def found(now: Numbers, name: str) -> Tensor:
    """Return a tensor that `settle` of a rule has added to `now`."""
    value = now[name]
    assert isinstance(value, Tensor)
    return value


def layer_of(name: str) -> str | None:
    """Return the first numbered module in a name: "model.layers.3" of "model.layers.3.mlp.up_proj.weight"; or None."""
    found = re.match(r"(?:.*?\.)?\d+(?=\.)", name)
    return found.group() if found else None


@dataclass(frozen=True)
class Slot:
    """A tensor of state, declared before it exists, so that it can be planned, sharded and compressed.

    Float slots follow the arithmetic: float32, and float64 for parameters in float64.
    """

    shape: Shape
    dtype: torch.dtype = torch.float32
    signed: bool = True  # False: never negative
    exact: bool = False  # True: no codec may touch it
    settled: bool = False  # True: moved in `settle`, whatever its shape


@dataclass(frozen=True, eq=False)
class Population:
    """(name, elements) of the parameters among which a split chooses; the same only as itself, so cheap to look up."""

    members: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Draw:
    """The random choices of one parameter in one window of `update_gap` steps.

    They are a pure function of (seed, name, window): nothing to save, no global generator, any order of visits.
    `population` holds every parameter that shares the split; `step` is the window's first. Only `fresh` is the run's:
    whether the parameter has no basis yet that a part which carries could go on from.
    """

    seed: int
    name: str
    window: int = 0
    step: int = 0
    population: Population = Population()
    fresh: bool = True

    def density(self, density: Density) -> float:
        """Return the density in force in this window, in [0, 1]; HybridOptError for any other number."""
        try:
            value = density(self.step) if callable(density) else density
        except TypeError as error:
            raise HybridOptError(f"density={density!r} must take the step as its only argument: {error}") from error
        check_share(f"density at step {self.step}", "density", value)
        return float(value)

    def generator(self, *more: object) -> torch.Generator:
        """Return a CPU generator of this parameter's own stream; `more` names a stream beside it."""
        return torch.Generator("cpu").manual_seed(stream(self.seed, self.name, *more))

    def turn(self, total: int, count: int) -> Tensor:
        """Return `count` of `total` positions, so that every position has its turn before any has its second.

        Shape [count], int64. One random order serves ceil(total / count) windows, then a new one is drawn.
        """
        windows = -(-total // count)
        drawn = self.generator("turn", self.window // windows, total)
        order = torch.randperm(total, generator=drawn, device="cpu")
        start = self.window % windows * count
        return order[torch.arange(start, start + count, device="cpu") % total].sort().values
