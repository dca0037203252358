"""Let the true streamer run over layers that compute nothing, to see what is near when, and what is moved."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...core.contracts import Piece, PlacedUnit, PlacementBackend, Traffic
from ...model.placement.placement import Placement
from ...model.placement.streaming.hooks import attach
from ...model.placement.streaming.pending_updates import MOST
from ...model.placement.streaming.streamer import Streamer, in_backward
from ..trace.moments import Stage

__all__ = ["Rounds", "Visited", "visited"]

STEPS = 3  # in the first the order is learned, in the second the way back to the first layer
LONG = 64  # steps between two writings of a layer: more are not played


@dataclass(frozen=True)
class Rounds:
    """How a step passes through the layers.

    Args:
        passes: of a micro-batch, one after the other: whether each has a backward pass.
        first: the first unit that a backward pass comes to.
        trained: bytes of each unit that a step updates by its losses; (): none.
        times: micro-batches of a step.
    """

    passes: tuple[bool, ...]
    first: int = 0
    trained: tuple[int, ...] = ()
    times: int = 1


@dataclass(frozen=True)
class Visited:
    """What a streamer does with the units of a model.

    Args:
        near: the most bytes that are near, and on their way, while a unit is computed with, in any step: by
            ("forward", index) and ("backward", index); while nothing of a unit is computed, under ("head",) in the
            middle of a pass, and under ("end",) after it.
        bytes: that are fetched in a step, once the order is known.
        each: how often each unit is fetched in such a step.
        written: bytes that are written where they rest in such a step, on the average.
    """

    near: dict[Stage, int]
    bytes: int
    each: tuple[int, ...]
    written: int = 0

    @property
    def fetches(self) -> int:
        """Return how many units are fetched in a step."""
        return sum(self.each)

    @property
    def most(self) -> int:
        """Return the most bytes that are ever near."""
        return max(self.near.values(), default=0)


def visited(sizes: Sequence[int], placement: Placement, rounds: Rounds) -> Visited:
    """Return what a streamer does with units of so many bytes.

    Args:
        sizes: bytes of each unit.
        placement: says how many are near, and fetched ahead.
        rounds: of a step.
    """
    layers = [_Layer(index >= rounds.first) for index in range(len(sizes))]
    trained = rounds.trained or (0,) * len(sizes)
    units = [_unit(index, *each) for index, each in enumerate(zip(layers, sizes, trained, strict=True))]
    every = (placement.write_every or MOST) if any(trained) else None
    turn = every if every is not None and every <= LONG else 1  # steps after which all units were written once
    traffic, near = Traffic(), dict[Stage, int]()
    carrier = _Counting(torch.device("cpu"), traffic, placement)
    streamer = Streamer(units, carrier, placement, traffic)

    def note(*stage: Any) -> None:
        now = sum(unit.nbytes for unit in streamer.near)
        near[stage] = max(near.get(stage, 0), now)

    def need(unit: PlacedUnit) -> None:
        streamer.need(unit)
        note("backward" if in_backward() else "forward", unit.index)

    for unit in units:
        attach(unit, need)
    counts, each = list[Traffic](), Counter[int]()
    for number in range(STEPS + 2 * turn - 1):
        _step(streamer, carrier, partial(_passes, layers, rounds.passes, note), rounds.times)
        for unit in units:
            if (piece := unit.pieces[-1]).nbytes:
                streamer.outstanding.note(unit, piece, _nothing, number)
        streamer.settle()  # it counts for the step that has asked for it
        counts.append(replace(traffic))
        each, carrier.fetched = carrier.fetched, Counter()
    streamer.close()
    last, before, start = counts[-1], counts[-2], counts[-1 - turn]
    written = (last.written - start.written) // turn if every == turn else sum(trained) // every if every else 0
    return Visited(near, last.moved - before.moved, tuple(each[unit.index] for unit in units), written)


def _step(streamer: Streamer, carrier: "_Counting", play: Callable[[], object], times: int) -> None:
    """Play the micro-batches of a step, until one leaves what an earlier one has left: the others are counted so."""
    left = dict[Any, tuple[int, Counter[int], int]]()
    number, traffic = 0, streamer.traffic
    while number < times:
        play()
        number += 1
        found = tuple(unit.index for unit in streamer.near), streamer.order.state, traffic.written
        if found in left:
            before, fetched, moved = left[found]
            again = (times - number) // (number - before)
            carrier.fetched += Counter({unit: again * n for unit, n in (carrier.fetched - fetched).items()})
            traffic.moved += again * (traffic.moved - moved)
            number += again * (number - before)
        left[found] = number, Counter(carrier.fetched), traffic.moved


def _passes(layers: Sequence[nn.Module], passes: Iterable[bool], note: Any) -> None:
    for backward in passes:
        _pass(layers, backward, note)


def _pass(layers: Sequence[nn.Module], backward: bool, note: Any) -> None:
    with torch.set_grad_enabled(backward):
        x = torch.zeros(())
        for layer in layers:
            x = layer(x)
        note("head")
    if x.requires_grad:
        x.backward()
    note("end")


def _unit(index: int, layer: nn.Module, size: int, trained: int) -> PlacedUnit:
    """Return a unit of so many bytes, the last of its two tensors being the one that is trained; they take none."""
    byte = torch.zeros(1, dtype=torch.uint8)
    sizes = {"frozen": size - trained, "trained": trained}
    return PlacedUnit(str(index), layer, index, [Piece(name, name, byte.expand(n)) for name, n in sizes.items()])


def _nothing() -> None:
    """Do nothing: an update."""


class _Layer(nn.Module):
    """A layer that a backward pass comes to if it, or one before it, is trained."""

    def __init__(self, trained: bool):
        super().__init__()
        self.own = nn.Parameter(torch.zeros(()), requires_grad=trained)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input."""
        return x + self.own


class _Counting(PlacementBackend):
    """Carries nothing, and counts what would be carried."""

    threaded = False

    def __init__(self, device: torch.device, traffic: Traffic, options: Placement):
        self._traffic = traffic
        self.fetched = Counter[int]()  # by the index of a unit

    @staticmethod
    def serves(base: str, device: torch.device) -> bool:
        """Serve nobody but the planner."""
        return False

    def adopt(self, unit: PlacedUnit) -> None:
        """Do nothing."""

    def open(self, unit: PlacedUnit) -> None:
        """Do nothing."""

    def fetch(self, unit: PlacedUnit) -> None:
        """Count the bytes of a unit."""
        self.fetched[unit.index] += 1
        self._traffic.moved += unit.nbytes

    def bind(self, unit: PlacedUnit) -> None:
        """Do nothing."""

    def write(self, unit: PlacedUnit, pieces: Sequence[Piece]) -> None:
        """Do nothing."""

    def keep(self, unit: PlacedUnit, pieces: Sequence[Piece]) -> None:
        """Count the bytes of tensors."""
        self._traffic.written += sum(piece.nbytes for piece in pieces)

    def rest(self, unit: PlacedUnit) -> None:
        """Do nothing."""

    def release(self, unit: PlacedUnit) -> None:
        """Do nothing."""
