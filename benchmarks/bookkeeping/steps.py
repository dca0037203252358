"""Steps of optimizers over many small tensors, where bookkeeping shows."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import nn

from hybridopt import HybridOptimizer

from .backend import Spent, measured
from .calls import Calls

TENSORS, SIDE, LR = 200, 64, 1e-3
WARM = 3  # steps before the measured ones; the first makes the state

Step = Callable[[], object]


@dataclass(frozen=True)
class Method:
    """A row: a policy with options. goal: microseconds a tensor outside the backend, at most."""

    label: str
    policy: str
    goal: float
    options: dict = field(default_factory=dict)


METHODS = {
    "adamw": Method("AdamW", "adamw", 15.0),
    "frugal": Method("FRUGAL ρ=0.25, columns", "frugal", 40.0, {"density": 0.25, "split": "columns"}),
}


def weights(count: int) -> dict[str, nn.Parameter]:
    """Return matrices [SIDE, SIDE] with gradients, by names that tell that they are layers' matrices."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for number in range(count):
        made[f"layers.{number}.weight"] = p = nn.Parameter(torch.randn(SIDE, SIDE, generator=generator))
        p.grad = torch.randn(SIDE, SIDE, generator=generator)
    return made


def step_of(method: Method, count: int) -> Step:
    """Return the step of a method over `count` tensors, warmed up."""
    optimizer = HybridOptimizer(
        weights(count).items(), lr=LR, policy=method.policy, nonfinite="ignore", compile=False, **method.options
    )
    return warmed(optimizer.step)


def fused_step(count: int) -> Step:
    """Return the step of torch's fused AdamW over `count` tensors, warmed up: a yardstick."""
    return warmed(torch.optim.AdamW(weights(count).values(), lr=LR, fused=True).step)


def warmed(step: Step) -> Step:
    """Return the step after it was taken some times."""
    for _ in range(WARM):
        step()
    return step


def calls(name: str, count: int = TENSORS) -> Spent:
    """Return the calls of one step of a method over `count` tensors."""
    step = step_of(METHODS[name], count)
    with Calls() as counter:
        return measured(step, lambda: counter.count)


def run(rounds: int, count: int = TENSORS) -> dict[str, dict[str, float]]:
    """Time fresh optimizers, which step in turns.

    Args:
        rounds: steps of each.
        count: of tensors.

    Returns:
        For every method the median seconds of a step, outside_seconds of it (each step's own time less its own time
        inside the backend), and fused_seconds of torch's fused AdamW beside it.
    """
    steps, fused = {name: step_of(method, count) for name, method in METHODS.items()}, fused_step(count)
    found: dict[str, list[Spent]] = {name: [] for name in METHODS}
    yardstick = []
    for _ in range(rounds):
        for name, step in steps.items():
            found[name].append(measured(step, time.perf_counter))
        start = time.perf_counter()
        fused()
        yardstick.append(time.perf_counter() - start)
    return {
        name: {
            "seconds": median(one.total for one in spent),
            "outside_seconds": median(one.outside for one in spent),
            "fused_seconds": median(yardstick),
        }
        for name, spent in found.items()
    }
