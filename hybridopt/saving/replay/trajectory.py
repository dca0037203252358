"""A zeroth-order run as plain data: slopes, rates and the parameters that follow from them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, repeat

import torch
from torch import Tensor

from ...core.contracts import Draw, Noise, Population, Shape
from ...core.errors import HybridOptError
from ...policy.treatment import Treatment

__all__ = ["Group", "Move", "Endpoints", "Trajectory", "check_upto"]


@dataclass(frozen=True)
class Endpoints:
    """A parameter before and after a run.

    Args:
        shape: of the parameter.
        seen: the shape in which it is updated, of as many elements.
        dtype: of the parameter.
        base: checksum before.
        result: checksum after.
    """

    shape: Shape
    seen: Shape
    dtype: torch.dtype
    base: int
    result: int

    @property
    def numel(self) -> int:
        """Return the number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Group:
    """Parameters of one treatment.

    Args:
        treatment: how they are updated.
        seed: of their directions.
        population: all parameters that share the source of directions.
        traces: before and after, by the names that they had in training.
    """

    treatment: Treatment
    seed: int
    population: Population
    traces: Mapping[str, Endpoints]


@dataclass(frozen=True)
class Move:
    """One step of one parameter.

    Args:
        step: its number in the run, from 0.
        lr: the learning rate.
        decay: what the weight is multiplied by.
        terms: (weight, direction) whose sum is the gradient.
    """

    step: int
    lr: float
    decay: float
    terms: tuple[tuple[float, Noise], ...]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A run in numbers.

    Args:
        slopes: float32 [steps, samples]; not a number where a step was skipped.
        rates: float64 [periods, 2 * groups]: learning rate and decay of every group, as long as they stay.
        counts: int32 [periods]: steps of each period.
        groups: the parameters.
    """

    slopes: Tensor
    rates: Tensor
    counts: Tensor
    groups: tuple[Group, ...]

    def __len__(self) -> int:
        return len(self.slopes)

    @property
    def traces(self) -> dict[str, Endpoints]:
        """Return all parameters, before and after, by name."""
        return {name: trace for group in self.groups for name, trace in group.traces.items()}

    @property
    def decays(self) -> bool:
        """Return whether there is weight decay in any step, so that steps depend on the weights."""
        return bool((self.rates[:, 1::2] != 1).any())

    def group(self, name: str) -> Group:
        """Return the group of a parameter."""
        return next(group for group in self.groups if name in group.traces)

    def moves(self, name: str, upto: int | None = None) -> list[Move]:
        """Return the moves of a parameter in the first `upto` steps (None: all); some steps leave it alone."""
        group = self.group(name)
        at = self.groups.index(group)
        source, shape = group.treatment.source, group.traces[name].shape
        found = []
        for step, slopes, (lr, decay) in islice(self._steps(at), upto):
            if slopes[0] != slopes[0]:
                continue  # not a number: skipped
            draw = Draw(group.seed, name, 0, step, group.population)
            noises = (source.noise(draw, shape, i, {}) for i in range(len(slopes)))
            terms = tuple((w, z) for w, z in zip(source.weights(slopes), noises, strict=True) if z is not None)
            if terms:
                found.append(Move(step, lr, decay, terms))
        return found

    def _steps(self, at) -> Iterator[tuple[int, tuple[float, ...], tuple[float, float]]]:
        own = self.rates[:, 2 * at : 2 * at + 2].tolist()
        rates = (pair for pair, count in zip(own, self.counts.tolist(), strict=True) for pair in repeat(pair, count))
        for step, (slopes, pair) in enumerate(zip(self.slopes.tolist(), rates, strict=True)):
            yield step, tuple(slopes), tuple(pair)


def check_upto(upto: object, steps: int) -> None:
    """Raise HybridOptError unless it is a number of steps out of `steps`."""
    if upto is not None and (not isinstance(upto, int) or isinstance(upto, bool) or not 0 <= upto <= steps):
        raise HybridOptError(
            f"upto={upto!r} is not allowed; the run has {steps} steps, give a number from 0 to {steps}"
        )
