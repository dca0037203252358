"""Carries out the runs of the fine-tuning tables, several at a time; each leaves a record."""

import math
import time
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from ..shared.environment import environment
from ..shared.markdown import human
from ..shared.records import Records
from ..shared.schedule import Schedule
from .methods import METHODS, settings_of
from .search import Row, best, by_row, next_rates, tried
from .task import Task
from .tasks import tasks
from .train import run as train


@dataclass(frozen=True)
class Run:
    """One training run of a row."""

    row: Row
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """Return that of the row."""
        return str(self.row)


@dataclass
class Bench:
    """What is to be run: tasks by name, seeds at the best learning rate. failed: why rows were dropped."""

    records: Records
    data: Path
    tasks: dict[str, Task]
    seeds: list[int]
    failed: dict[str, str] = field(default_factory=dict)

    def wanted(self, row: Row) -> list[Run]:
        """Return the runs of one row that can start now: learning rates, then one beyond the edge, then seeds."""
        task, method = self.tasks[row.task], METHODS[row.method]
        runs, centre = by_row(self.records.all()).get(row, []), method.centre(row.mode)
        for record in runs:
            self.records.check(record, settings_of(method, task, row.mode))
        if centre is None:
            return []
        found = tried(runs, task.accuracy)
        if rates := next_rates(centre, found):
            return [Run(row, lr, 0) for lr in rates]
        there, chosen = {(record["lr"], record["seed"]) for record in runs}, best(found)
        return [Run(row, chosen, seed) for seed in self.seeds if (chosen, seed) not in there]

    def measure(self, rows: Iterable[Row], pool: Executor, jobs: int, minutes: float = math.inf) -> None:
        """Carry out all runs of some rows.

        Args:
            rows: of the tables.
            pool: where they run.
            jobs: how many at a time.
            minutes: start none that would end later.
        """
        known = {str(row): row for row in rows}
        work = partial(carry_out, data=self.data, records=self.records)
        schedule = Schedule(known, lambda name: self.wanted(known[name]), work, outcome)
        self.failed |= schedule.measure(pool, jobs, minutes)


def carry_out(run: Run, data: Path, records: Records) -> dict:
    """Train once on one thread, keep the record and return it; in a process of the pool.

    Args:
        run: row, learning rate and seed.
        data: folder of all data.
        records: where the record is kept.
    """
    torch.set_num_threads(1)
    row, start = run.row, time.monotonic()
    task, method = tasks()[row.task], METHODS[row.method]
    record = {
        "task": row.task,
        "mode": row.mode,
        "method": row.method,
        "lr": run.lr,
        "seed": run.seed,
        "settings": settings_of(method, task, row.mode),
        **train(task, method, row.mode, run.lr, run.seed, data),
        "run_seconds": round(time.monotonic() - start, 1),
        "environment": environment(),
    }
    records.put(record)
    return record


def outcome(run: Run, record: dict) -> str:
    """Return what is said of a run that ended."""
    said = f"{run.name} lr={run.lr:g} seed={run.seed}: "
    if record["test"] is None:
        return said + "diverged"
    scores = ", ".join(f"{key} {value:.4f}" for key, value in record["validation"].items())
    return said + f"{scores}, {human(record['state_bytes'])} of state, {record['run_seconds']:.0f} s"
