"""Weights from scalars: the updates of a run carried out again on one parameter, to the bit, without any model."""

from collections.abc import Callable, Iterator, Sequence
from typing import cast

from torch import Tensor

from ...core.errors import HybridOptError
from ...core.numerics.directions import Direction, combine_
from ...execution.probe_gradient import ProbeGradient
from ...execution.probe_updates import multiples, run_estimated
from ...execution.update_task import Task
from ...policy.job import Job, arithmetic
from .trajectory import Group, Move

__all__ = ["Progress", "add_", "replay_", "summed"]

TILES = {"cpu": 1 << 20}  # elements that all steps are done to before the next are: they should stay in the cache
ELSEWHERE = 1 << 26
WORTH_COMPILING = 50_000_000_000  # elements times steps, on a CPU
MOST = 64  # terms of a sum at a time
Progress = Callable[[int], None]  # is told how many elements times passes are done


def replay_(
    x: Tensor,
    name: str,
    group: Group,
    moves: Sequence[Move],
    progress: Progress = lambda done: None,
    compile: bool | str = "auto",
) -> None:
    """Carry out the moves of a parameter on `x`, in place and on its device, by the functions that trained it.

    The result does not depend on device, `compile` or threads.

    Args:
        x: contiguous, in the shape and dtype that the parameter had in training.
        name: of the parameter in training.
        group: the parameter's.
        moves: of the parameter, in order.
        progress: is told how many elements times steps have been done.
        compile: compile the updates; "auto": where that is worth its time.
    """
    if not moves or not x.numel():
        return
    compiles = _worth(x, len(moves)) if compile == "auto" else bool(compile)
    for start, tile in _tiles(x, name, group, moves[0]):
        for move in moves:
            run_estimated(_task(tile, name, group, move, start), compiles)
        progress(tile.numel() * len(moves))


def add_(x: Tensor, name: str, group: Group, moves: Sequence[Move], progress: Progress = lambda done: None) -> int:
    """Add to `x` the sum of all moves, direction by direction, and return the number of directions.

    It is rounded once, to nearest, so it equals `replay_` up to rounding only.

    Args:
        x: contiguous, in the shape and dtype that the parameter had in training; changed in place.
        name: of the parameter in training.
        group: the parameter's.
        moves: of the parameter.
        progress: is told how many elements times directions have been done.

    Raises:
        HybridOptError: before `x` is changed, where updates depend on the weights or are no multiples of directions.
    """
    terms = summed(x, name, group, moves)
    for start, tile in _tiles(x, name, group, moves[0]) if terms and x.numel() else ():
        value = tile.to(arithmetic(x.dtype))
        for at in range(0, len(terms), MOST):
            combine_(value, value, terms[at : at + MOST], start, compile=x.device.type != "cpu")
        tile.copy_(value)
        progress(tile.numel() * len(terms))
    return len(terms)


def summed(x: Tensor, name: str, group: Group, moves: Sequence[Move]) -> list[tuple[float, Direction]]:
    """Return (multiple, direction) of all moves together.

    Args:
        x: of which only shape and dtype count.
        name: of the parameter in training.
        group: the parameter's.
        moves: of the parameter.

    Raises:
        HybridOptError: as `add_`.
    """
    sums: dict[Direction, float] = {}
    for move in moves:
        weights = multiples(_task(x, name, group, move, 0))
        if weights is None or move.decay != 1:
            why = "signs of a sum of directions" if weights is None else "weight decay"
            raise HybridOptError(
                f"{name!r} was trained with {why}, so its steps cannot be added up in another order; replay it exactly"
            )
        for weight, (_, direction) in zip(weights, move.terms, strict=True):
            z = cast(Direction, direction)  # as `multiples` has found
            sums[z] = sums.get(z, 0.0) - weight
    return [(weight, direction) for direction, weight in sums.items()]


def _task(tile, name, group, move, start):
    """Return the task of training for a part of the parameter that begins at element `start`."""
    t, numbers = group.treatment, arithmetic(tile.dtype)
    job = Job(t, t.split, tuple(tile.shape), numbers)
    grad = ProbeGradient(move.terms, job.shape, tile.device, numbers, start=start)
    store, key = t.store_for(tile.dtype), (group.seed, name)
    return Task(tile, cast(Tensor, grad), {}, job, store, move.lr, move.decay, move.step + 1, key, move.step)


def _tiles(x, name, group, move) -> Iterator[tuple[int, Tensor]]:
    """Yield the parts of `x` to be updated one after the other, each with the position of its first element.

    They are whole rows; everything at once where the update may not be cut.
    """
    whole = x.view(group.traces[name].seen)
    task = _task(whole, name, group, move, 0)
    if multiples(task) is None or (whole.ndim < 2 and task.store.random):
        yield 0, whole
        return
    width = whole.shape[-1] if whole.ndim > 1 else 1
    rows = whole.view(-1, width)
    step = max(1, TILES.get(x.device.type, ELSEWHERE) // width)
    for row in range(0, len(rows), step):
        yield row * width, rows[row : row + step]


def _worth(x, steps):
    return x.device.type != "cpu" or x.numel() * steps >= WORTH_COMPILING
