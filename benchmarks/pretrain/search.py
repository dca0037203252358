"""Which runs a method wants next: short ones at rates and factors, full ones at the best, then seeds.

Pure functions of the losses so far, on windows that are never reported.
"""

import math
from dataclasses import dataclass

from ..shared.ladder import rung

__all__ = ["Cell", "Found", "Place", "Plan", "at_edge", "best", "edge", "full", "short", "wanted"]

Place = tuple[float, float]  # learning rate, factor
WORSE, FAR = 0.05, 0.5  # nats by which a lower and a higher rate lose in short runs, so that neither gets a full one


@dataclass(frozen=True)
class Cell:
    """A run: learning rate, factor on that of embeddings and output layer, seed, steps."""

    lr: float
    factor: float
    seed: int
    steps: int


Found = dict[Cell, float]  # loss on the windows for choosing, infinite where training diverged


@dataclass(frozen=True)
class Plan:
    """How a method's learning rate and factor are found.

    rates: tried first, with the first of `factors`; the other factors are tried at the best two of them. beyond: rates
    tried beyond the first ones while the best is the outermost. brackets: full runs at most that confirm the rate, one
    rung beside the best, while it is the outermost. seeds: of full runs at the best; the first is the search's.
    """

    rates: tuple[float, ...]
    factors: tuple[float, ...]
    short_steps: int
    full_steps: int
    seeds: tuple[int, ...] = (0, 1, 2)
    beyond: int = 3
    brackets: int = 3


def wanted(found: Found, plan: Plan) -> list[Cell]:
    """Return the runs that can start now, none of those that are there; empty when the plan is done."""
    known = short(found, plan)
    for places in (_rates(known, plan), _factors(known, plan), _beyond(known, plan)):
        if new := [place for place in places if place not in known]:
            return [Cell(*place, plan.seeds[0], plan.short_steps) for place in new]
    if (chosen := best(known)) is None:
        return []  # all diverged
    ended = full(found, plan)
    if chosen not in ended:
        return [Cell(*chosen, plan.seeds[0], plan.full_steps)]
    if beside := _brackets(known, ended, plan):
        return [Cell(*place, plan.seeds[0], plan.full_steps) for place in beside]
    if (chosen := best(ended)) is None:
        return []
    cells = [Cell(*chosen, seed, plan.full_steps) for seed in plan.seeds]
    return [cell for cell in cells if cell not in found]


def short(found: Found, plan: Plan) -> dict[Place, float]:
    """Return the losses of the runs of the search."""
    return _losses(found, plan.short_steps, plan.seeds[0])


def full(found: Found, plan: Plan) -> dict[Place, float]:
    """Return the losses of the full runs with the search's seed."""
    return _losses(found, plan.full_steps, plan.seeds[0])


def _losses(found: Found, steps: int, seed: int) -> dict[Place, float]:
    return {(cell.lr, cell.factor): loss for cell, loss in found.items() if (cell.steps, cell.seed) == (steps, seed)}


def best(losses: dict[Place, float]) -> Place | None:
    """Return the place that did best, the lowest of equals; None where all diverged or there is none."""
    ended = {place: loss for place, loss in losses.items() if loss < math.inf}
    return min(ended, key=lambda place: (ended[place], place), default=None)


def at_edge(losses: dict[Place, float]) -> bool:
    """Tell whether the best learning rate is the lowest or the highest tried."""
    rates = [lr for lr, _ in losses]
    chosen = best(losses)
    return chosen is not None and chosen[0] in (min(rates), max(rates))


def _rates(known: dict[Place, float], plan: Plan) -> list[Place]:
    return [(lr, plan.factors[0]) for lr in plan.rates] + _beyond_of(known, plan, plan.factors[:1])


def _factors(known: dict[Place, float], plan: Plan) -> list[Place]:
    first = {place: loss for place, loss in known.items() if place[1] == plan.factors[0] and loss < math.inf}
    rates = sorted(first, key=lambda place: (first[place], place))[:2]
    return [(lr, factor) for lr, _ in rates for factor in plan.factors]


def _beyond(known: dict[Place, float], plan: Plan) -> list[Place]:
    return _beyond_of(known, plan, plan.factors)


def _beyond_of(known: dict[Place, float], plan: Plan, factors: tuple[float, ...]) -> list[Place]:
    """Return the place one rung beyond the best, with its factor, while its rate is the outermost."""
    places = {place: loss for place, loss in known.items() if place[1] in factors}
    rates = {lr for lr, _ in known}
    if not set(plan.rates) <= rates or not at_edge(places) or len(plan.rates) < 2:
        return []
    if len(rates) >= len(plan.rates) + plan.beyond or (chosen := best(places)) is None:
        return []
    return [(rung(chosen[0], -1 if chosen[0] == min(rates) else 1), chosen[1])]


def edge(found: Found, plan: Plan) -> bool:
    """Tell whether the chosen rate is the outermost of those tried; of full runs, once some have confirmed it."""
    known, ended = short(found, plan), full(found, plan)
    return bool(_next(known, ended)) if len(ended) > 1 else at_edge(known)


def _brackets(known: dict[Place, float], ended: dict[Place, float], plan: Plan) -> list[Place]:
    return _next(known, ended) if len(ended) <= plan.brackets else []


def _next(known: dict[Place, float], ended: dict[Place, float]) -> list[Place]:
    """Return the place one rung beyond the best full run, with its factor, while its rate is the outermost of them.

    Higher rates come first, since short runs favour lower ones: a lower one that has lost there is left out, a higher
    one only if it was far behind.
    """
    if (chosen := best(ended)) is None:
        return []
    (lr, factor), rates = chosen, [rate for rate, _ in ended]
    above, below = rung(lr, 1), rung(lr, -1)
    if lr == max(rates) and _behind(known, above, lr) <= FAR:
        return [(above, factor)]
    return [(below, factor)] if lr == min(rates) and _behind(known, below, lr) <= WORSE else []


def _behind(known: dict[Place, float], rate: float, other: float) -> float:
    """Return by what a rate has lost to another one in short runs with the same factor, at the least; 0 if unknown."""
    pairs = [
        (known[rate, factor], known[other, factor]) for lr, factor in known if lr == rate and (other, factor) in known
    ]
    return min((one - two for one, two in pairs if two < math.inf), default=0.0)
