"""Carries out the runs of the pre-training table, several at a time; each leaves a record."""

import math
import time
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from ..shared.environment import environment
from ..shared.markdown import human
from ..shared.records import Records
from ..shared.schedule import Schedule
from .budget import Budget
from .methods import Method
from .search import best, next_rates, runs_of, tried
from .text import Text
from .train import run as train

TEXT: dict[Budget, Text] = {}  # of this process


@dataclass(frozen=True)
class Run:
    """One training run: which method, learning rate and seed."""

    name: str
    lr: float
    seed: int


@dataclass
class Bench:
    """What is to be run: methods, learning rates tried for each, seeds at the best. failed: why some were dropped."""

    records: Records
    data: Path
    budget: Budget
    methods: dict[str, Method]
    tries: int
    seeds: list[int]
    failed: dict[str, str] = field(default_factory=dict)

    def wanted(self, name: str) -> list[Run]:
        """Return the runs of one method that can start now: learning rates, then one beyond the edge, then seeds."""
        method, runs = self.methods[name], runs_of(self.records, name)
        for record in runs.values():
            self.records.check(record, self.budget.settings(method))
        losses = tried(runs)
        if rates := next_rates(method, losses, self.tries):
            return [Run(name, lr, 0) for lr in rates]
        chosen = best(losses)
        return [Run(name, chosen, seed) for seed in self.seeds if (chosen, seed) not in runs]

    def measure(self, pool: Executor, jobs: int, minutes: float = math.inf) -> None:
        """Carry out all runs.

        Args:
            pool: where they run.
            jobs: how many at a time.
            minutes: start none that would end later.
        """
        work = partial(carry_out, methods=self.methods, budget=self.budget, data=self.data, records=self.records)
        self.failed = Schedule(self.methods, self.wanted, work, outcome).measure(pool, jobs, minutes)


def carry_out(run: Run, methods: dict[str, Method], budget: Budget, data: Path, records: Records) -> dict:
    """Train once on one thread, keep the record and return it; in a process of the pool.

    Args:
        run: method, learning rate and seed.
        methods: by name.
        budget: what all runs share.
        data: folder of the text.
        records: where the record is kept.
    """
    torch.set_num_threads(1)
    if budget not in TEXT:
        TEXT[budget] = budget.text(data)
    method, start = methods[run.name], time.monotonic()
    record = {
        "method": run.name,
        "lr": run.lr,
        "seed": run.seed,
        "settings": budget.settings(method),
        **train(method, run.lr, run.seed, budget, TEXT[budget]),
        "run_seconds": round(time.monotonic() - start, 1),
        "environment": environment(device=budget.device),
    }
    records.put(record)
    return record


def outcome(run: Run, record: dict) -> str:
    """Return what is said of a run that ended."""
    loss = record["validation_loss"]
    return (
        f"{run.name} lr={run.lr:g} seed={run.seed}: loss {'diverged' if loss is None else f'{loss:.4f}'}, "
        f"{human(record['state_bytes'])} of state, {record['cpu_seconds_per_step']['median']:.3f} CPU s/step, "
        f"{record['run_seconds']:.0f} s"
    )
