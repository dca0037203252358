"""The small protocols that every part of hybridopt speaks; imports torch, and only errors of the package."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import torch
from torch import Tensor

from .errors import HybridOptError, check_number
from .numerics.rounding import Seed

__all__ = [
    "Codec",
    "Density",
    "Draw",
    "Noise",
    "Numbers",
    "Part",
    "Population",
    "Rule",
    "Scheme",
    "Shape",
    "Slot",
    "Source",
    "Split",
    "State",
    "Store",
    "layer_of",
    "portion",
    "stream",
]

Shape = tuple[int, ...]
State = dict[str, Tensor]
Numbers = Mapping[str, float | Tensor]  # by name, floats or tensors of shape []
Density = float | Callable[[int], float]


def stream(*parts: object) -> int:
    """A random-looking number of 63 bits that depends on `parts` alone: equal on every rank, machine and run."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


def portion(density: float, total: int) -> int:
    """How many of `total` columns, rows, entries or directions a density asks for: none only at density 0."""
    return min(total, max(1, round(density * total))) if density > 0 else 0


def layer_of(name: str) -> str | None:
    """The first numbered module in a parameter's name: "model.layers.3" of "model.layers.3.mlp.up_proj.weight"."""
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
    """Gradient to direction, pure tensor code for any leading dimensions; without slots it is state-free.

    A local rule works element by element on any shape. Any other is given matrices `[..., m, n]` (a vector as [1, n])
    and reduces their last two dimensions only. What it must know of the whole matrix it asks for in `looks` rounds,
    so that no temporary need be larger than a slice of rows: `look` sees one slice after the other, `settle` sums up.
    A rule with `looks = None` needs the matrix in one piece.
    """

    local: bool  # elementwise: may run on a shard or on any slice
    reads_param: bool  # does the direction depend on the weight?
    looks: int | None  # 0 for a local rule

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """The state for a gradient of this shape; HybridOptError for a shape that it cannot take."""

    def numbers(self, step: int) -> dict[str, float]:
        """What depends on the step alone (from 1), such as bias corrections."""

    def look(self, i: int, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> tuple[State, State]:
        """Round `i` on a slice of rows: [..., rows, 1] by name, to be joined, and sums over the rows, to be added.

        The elementwise `state` is there to be read; it moves in `update`.
        """

    def settle(self, i: int, rows: State, sums: State, state: State, now: Numbers) -> tuple[State, State]:
        """The joined rows and sums of round `i`: change the state that is no matrix; return rows and the rest.

        Both are added to `now` of what follows, the rows cut to the slice.
        """

    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Change the elementwise `state` in place and return the direction, shape of `grad`, a tensor of its own."""


class Part(Protocol):
    """A split in force for one window: `up_(zeros, down(x)) + rest(x) == x`."""

    local: bool  # may it be applied to slices of rows?
    disjoint: bool  # is every entry either state-full or state-free? Then up_ overwrites
    covers: bool  # is every entry state-full?
    carries: bool  # does `sample` go on from the basis of the window before?

    def shape(self, full: Shape) -> Shape | None:
        """The shape of the state-full part; None where there is none."""

    def slots(self, full: Shape) -> dict[str, Slot]:
        """What the part itself keeps: indices or a basis."""

    def sample(self, grad: Tensor, basis: State, draw: Draw) -> None:
        """Fill the basis at the start of a window, from zeros unless it `carries`; rare and eager.

        `grad` comes in its own dtype, as a copy in that of the basis would be as large as the parameter.
        """

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


@dataclass(frozen=True)
class Scheme:
    """How losses at shifted weights become slopes, one for each random direction z_k; an optimizer has one for all.

    two_sided: (l(theta + eps z) - l(theta - eps z)) / 2, else l(theta + eps z) - l(theta). normalized: divided by the
    standard deviation of the losses. conservative: of the steps +1, -1 and 0 the one with the lowest loss is made.
    """

    samples: int = 1
    two_sided: bool = True
    normalized: bool = False
    conservative: bool = False


class Noise(Protocol):
    """One random direction of one parameter."""

    def values(self, start: int, count: int, device: torch.device) -> Tensor:
        """z at the positions start .. start + count of the flattened parameter: float32, shape [count]."""


class Source(Protocol):
    """Where a gradient comes from: `share` of the backward pass's, plus `weights` of the random directions."""

    backward: bool  # does it take a gradient from the backward pass?
    share: float  # how much of it
    scheme: Scheme | None  # None: it takes no probes
    eps: float  # how far the weights are shifted
    update_gap: int  # steps for which the basis stays, 0: there is none
    exact: bool  # are its directions the same to the last bit on every device?

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """The basis that directions of this shape are made of."""

    def sample(self, basis: State, draw: Draw) -> None:
        """Fill the basis, at the start of a window."""

    def noise(self, draw: Draw, shape: Shape, index: int, basis: State) -> "Noise | None":
        """Direction `index` of this step (`draw.step`); None where the parameter is left alone in it."""

    def weights(self, slopes: Sequence[float]) -> tuple[float, ...]:
        """How much of each direction the gradient has, by the slopes along all of them."""


class Codec(Protocol):
    """How a slot is kept between two steps, as named plain tensors, so that checkpoints stay plain."""

    local: bool  # element by element?
    random: bool  # does it round at random?

    def raw(self, slot: Slot) -> dict[str, Slot]:
        """Suffix to raw slot; the suffix "" is the main tensor."""

    def load(self, raw: State, slot: Slot) -> Tensor:
        """The value, in the slot's dtype."""

    def store(self, raw: State, value: Tensor, slot: Slot, seed: Seed) -> None:
        """Keep the value; `seed` is what rounding needs."""


class Store(Protocol):
    """How a weight is kept: the only code that writes to parameters."""

    random: bool  # does it round at random?
    block: int  # elements in a row that are written together

    def fits(self, dtype: torch.dtype) -> bool:
        """Can it keep a parameter of this dtype?"""

    def write_(self, param: Tensor, update: Tensor, decay: float | Tensor, seed: Seed) -> None:
        """param = decay * param - update, computed in the dtype of `update`; `seed` is what rounding needs."""

    def put_(self, param: Tensor, value: Tensor, seed: Seed) -> None:
        """param = value, rounded as `write_` rounds."""
