"""One optimizer step, measured between steps of torch's fused AdamW over the same weights and gradients."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median, quantiles

import torch
from torch import nn

from hybridopt.execution.dispatch import LASTING, WORTH_PRINTING

from ..shared.peak import Peak
from ..shared.tensor_bytes import held
from ..shared.timing import seconds
from .sets import Model
from .weights import Weights

LR = 1e-3
SLOW, VERY_SLOW = 0.5, 2.0  # seconds; from there on a third and a fifth of the pairs are enough
QUICK, MORE = 0.005, 4  # seconds; below, noise is larger and that many times the pairs cost nothing
COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}  # far more than any cache
WARM = 3  # steps before the measured ones, the first included, and for small models those before kernels are taken


@dataclass(frozen=True)
class Subject:
    """What is measured: its step, what it keeps between steps, and switches to further ways of stepping."""

    step: Callable[[], object]
    holds: object
    variants: dict[str, Callable[[], object]] = field(default_factory=dict)


Make = Callable[[dict[str, nn.Parameter]], Subject]


class Bench:
    """The weights, gradients and yardstick that all rows of one dtype share."""

    def __init__(self, llama: Model, dtype: torch.dtype, device: str, pairs: int):
        self.weights, self.device, self.pairs = Weights(llama, dtype, device), device, pairs
        self._yardstick_params = {n: nn.Parameter(value) for n, value in self.weights.values.items()}
        self._yardstick = torch.optim.AdamW(self._yardstick_params.values(), lr=LR, fused=True)
        numel = min(COPY_BYTES[device], 16 * self.weights.numel) // 4
        self._source, self._target = torch.ones(numel, device=device), torch.zeros(numel, device=device)
        self.weights.fresh()
        self._reference()  # from here on all shared memory is taken, and what is free can be asked for

    def measure(self, make: Make) -> dict:
        """Return every number of one row."""
        params = self.weights.fresh()
        torch.compiler.reset()  # each row compiles for itself, as in a process of its own
        made: list[Subject] = []
        making = seconds(lambda: made.append(make(params)), self.device)  # some compile then
        (subject,), numel = made, self.weights.numel
        first, idle = self._warm(subject, params)
        kept = held(subject.holds, [*self.weights.values.values(), *self.weights.grads.values()])
        times = {"default": self._sandwiches(subject.step, params, idle, self.pairs)}
        for name, switch in subject.variants.items():
            switch()
            self._timed(subject.step, params, idle)
            times[name] = self._sandwiches(subject.step, params, idle, math.ceil(self.pairs / 2))
        floor, copy = self._floor(idle) + 2 * kept, self.bandwidth()
        return {
            **times.pop("default"),
            "variants": times,
            "first_seconds": making + first,
            "state_bytes": kept,
            "state_bytes_per_parameter": kept / numel,
            "idle_tensors": len(idle),
            "minimal_bytes": floor,
            "copy_bytes_per_second": copy,
            "peak_temporary_bytes": self._temporaries(subject, params, idle),
        }

    def bandwidth(self) -> float:
        """Return bytes read and written a second by the best of five large copies, made now."""
        work = [seconds(lambda: self._target.copy_(self._source), self.device) for _ in range(5)]
        return 2 * self._source.nbytes / min(work)

    def _warm(self, subject, params):
        """Return seconds of the first step, and the parameters that a step leaves alone.

        They get no gradients afterwards: a method in whose turn some layers stand still has hooks that drop their
        gradients in a backward pass.
        """
        self._reference()
        first = self._timed(subject.step, params)
        before = self.weights.marks()
        for _ in range(WARM - 1 + (LASTING if self.weights.numel < WORTH_PRINTING else 0)):
            self._timed(subject.step, params)
        idle = frozenset(name for name, mark in self.weights.marks().items() if mark == before[name])
        return first, idle

    def _timed(self, step, params, idle=frozenset()):
        self.weights.give(params, idle)
        return seconds(step, self.device)

    def _reference(self):
        return self._timed(self._yardstick.step, self._yardstick_params)

    def _sandwiches(self, step, params, idle, pairs):
        once = self._timed(step, params, idle)
        yardsticks, times = [self._reference()], []
        for _ in range(pairs_for(once, pairs)):
            times.append(self._timed(step, params, idle))
            yardsticks.append(self._reference())
        return summary(times, yardsticks)

    def _floor(self, idle):
        """Return bytes of reading a gradient and reading and writing a weight, for what the step changes."""
        return sum(3 * value.nbytes for name, value in self.weights.values.items() if name not in idle)

    def _temporaries(self, subject, params, idle):
        self.weights.give(params, idle)
        with Peak(self.device) as peak:
            subject.step()
        return peak.extra


def summary(times: list[float], yardsticks: list[float]) -> dict:
    """Return median seconds and the median ratio to the mean of both neighbours, with its quartiles."""
    ratios = [2 * t / (yardsticks[i] + yardsticks[i + 1]) for i, t in enumerate(times)]
    low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {
        "seconds": median(times),
        "reference_seconds": median(yardsticks),
        "ratio": median(ratios),
        "ratio_quartiles": [low, high],
        "pairs": len(times),
    }


def pairs_for(once: float, pairs: int) -> int:
    """Return how many pairs a step that took `once` seconds gets, of `pairs` where it is neither quick nor slow."""
    if once < QUICK:
        return MORE * pairs
    share = 1 if once <= SLOW else 3 if once <= VERY_SLOW else 5
    return max(min(pairs, 3), math.ceil(pairs / share))


def share_of_bandwidth(row: dict) -> float:
    """Return minimal bytes of the method over its time, as a share of what a copy moves."""
    return row["minimal_bytes"] / row["seconds"] / row["copy_bytes_per_second"]
