"""The steps of a run: which examples are probed, and which give gradients."""

import math
from collections.abc import Iterator

from torch import nn

from .arms import Arm
from .examples import Examples
from .model import answer_loss
from .task import Budget, Task

Batches = tuple[Examples | None, Examples | None]  # for gradients, for probes; None: the arm has none


def pools_of(arm: Arm, budget: Budget, task: Task) -> Batches:
    """Return the examples that gradients and probes of an arm come from.

    Args:
        arm: which names them.
        budget: says what long is.
        task: whose training split.
    """
    short, long = task.train.up_to(budget.threshold)
    pools = {None: None, "all": task.train, "short": short, "long": long}
    if "cut" in (arm.first, arm.zeroth):
        pools["cut"] = task.train.cut(budget.threshold)
    return pools[arm.first], pools[arm.zeroth]


def steps_of(arm: Arm, seed: int, budget: Budget, task: Task) -> Iterator[Batches]:
    """Yield the batches of each step.

    Args:
        arm: says how many examples of which kind.
        seed: of the order.
        budget: says how many steps.
        task: whose training split.
    """
    first, zeroth = pools_of(arm, budget, task)
    gradients = first.batches(arm.gradients, seed) if first else None
    probes = zeroth.batches(arm.probes, seed + 1000) if zeroth else None
    for _ in range(budget.steps):
        yield next(gradients) if gradients else None, next(probes) if probes else None


def train_step(model: nn.Module, optimizer, first: Examples | None, zeroth: Examples | None) -> float:
    """Take one step: probes before gradients, as both belong to the same weights.

    Args:
        model: is changed.
        optimizer: of the model.
        first: the batch for gradients.
        zeroth: the batch for probes.

    Returns:
        The loss of the batch for gradients if there is one, else of the probes.
    """
    loss = math.nan
    if zeroth:
        loss = optimizer.probe(lambda: answer_loss(model, zeroth))
    if first:
        value = answer_loss(model, first)
        loss = value.item()
        value.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss
