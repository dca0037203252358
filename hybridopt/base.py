"""The small protocols that every part of hybridopt speaks; imports torch, and only errors of the package."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import torch
from torch import Tensor

from .errors import HybridOptError, check_number

__all__ = [
    "Codec",
    "Density",
    "Draw",
    "Part",
    "Population",
    "Rule",
    "Shape",
    "Slot",
    "Split",
    "State",
    "Store",
    "portion",
    "stream",
]

Shape = tuple[int, ...]
State = dict[str, Tensor]
Density = float | Callable[[int], float]


def stream(*parts: object) -> int:
    """A random-looking number of 63 bits that depends on `parts` alone: equal on every rank, machine and run."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


def portion(density: float, total: int) -> int:
    """How many of `total` columns, rows, entries or directions a density asks for: none only at density 0."""
    return min(total, max(1, round(density * total))) if density > 0 else 0


@dataclass(frozen=True)
class Slot:
    """A tensor of state, declared before it exists, so that it can be planned, sharded and compressed.

    Float slots follow the arithmetic: float32, and float64 for parameters in float64.
    """

    shape: Shape
    dtype: torch.dtype = torch.float32
    signed: bool = True  # False: never negative
    exact: bool = False  # True: no codec may touch it


@dataclass(frozen=True, eq=False)
class Population:
    """(name, elements) of the parameters among which a split chooses; the same only as itself, so cheap to look up."""

    members: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Draw:
    """The random choices of one parameter in one window of `update_gap` steps.

    They are a pure function of (seed, name, window): nothing to save, no global generator, any order of visits.
    `population` holds every parameter that shares the split; `step` is the window's first.
    """

    seed: int
    name: str
    window: int = 0
    step: int = 0
    population: Population = Population()

    def density(self, density: Density) -> float:
        """The density in force in this window, in [0, 1]."""
        try:
            value = density(self.step) if callable(density) else density
        except TypeError as error:
            raise HybridOptError(f"density={density!r} must take the step as its only argument: {error}") from error
        check_number(f"density at step {self.step}", "density", value, 0, 1)
        return float(value)

    def generator(self, *more: object) -> torch.Generator:
        """A CPU generator of this parameter's own stream; `more` names a stream beside it."""
        return torch.Generator().manual_seed(stream(self.seed, self.name, *more))

    def turn(self, total: int, count: int) -> Tensor:
        """`count` of `total` positions, so that every position has its turn before any has its second.

        Shape [count], int64. One random order serves ceil(total / count) windows, then a new one is drawn.
        """
        windows = -(-total // count)
        order = torch.randperm(total, generator=self.generator("turn", self.window // windows, total))
        start = self.window % windows * count
        return order[(torch.arange(start, start + count)) % total].sort().values


class Rule(Protocol):
    """Gradient to direction, written for `[..., *shape]`, pure tensor code; without slots it is state-free."""

    local: bool  # elementwise: may run on a shard or on a slice of rows
    reads_param: bool  # does the direction depend on the weight?

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """The state for a gradient of this shape."""

    def update(self, grad: Tensor, state: State, param: Tensor | None, step: int | Tensor) -> Tensor:
        """Change `state` in place and return the direction, shape of `grad`; `step` counts from 1."""


class Part(Protocol):
    """A split in force for one window: `up_(zeros, down(x)) + rest(x) == x`."""

    local: bool  # may it be applied to slices of rows?

    def shape(self, full: Shape) -> Shape | None:
        """The shape of the state-full part; None where there is none."""

    def slots(self, full: Shape) -> dict[str, Slot]:
        """What the part itself keeps: indices or a basis."""

    def sample(self, grad: Tensor, basis: State, draw: Draw) -> None:
        """Fill the basis at the start of a window; rare and eager."""

    def down(self, x: Tensor, basis: State) -> Tensor | None:
        """The state-full part of `x`."""

    def rest(self, x: Tensor, basis: State) -> Tensor | None:
        """The state-free part of `x`, in the shape of `x`; None where there is none."""

    def up_(self, out: Tensor, x: Tensor, basis: State) -> Tensor:
        """Join the state-full part `x` to `out`, in place where that is possible."""


class Split(Protocol):
    """Which part of a parameter is state-full, chosen anew every `update_gap` steps (0: once and for all)."""

    update_gap: int

    def at(self, draw: Draw, shape: Shape) -> Part:
        """The part in force in the window of `draw` for a parameter of this shape."""


class Codec(Protocol):
    """How a slot is kept between two steps, as named plain tensors, so that checkpoints stay plain."""

    local: bool  # element by element?

    def raw(self, slot: Slot) -> dict[str, Slot]:
        """Suffix to raw slot; the suffix "" is the main tensor."""

    def load(self, raw: State, slot: Slot) -> Tensor:
        """The value, in the slot's dtype."""

    def store(self, raw: State, value: Tensor, slot: Slot, key: int) -> None:
        """Keep the value; `key` seeds what rounding needs."""


class Store(Protocol):
    """How a weight is kept: the only code that writes to parameters."""

    def fits(self, dtype: torch.dtype) -> bool:
        """Can it keep a parameter of this dtype?"""

    def write_(self, param: Tensor, update: Tensor, decay: float | Tensor, key: int) -> None:
        """param = decay * param - update, computed in the dtype of `update`; `key` seeds what rounding needs."""
