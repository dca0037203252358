"""Carries out the runs of the pre-training tables; each leaves a record, and none that is there is made again."""

import math
import time
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch

from ..shared.environment import environment
from ..shared.markdown import human
from ..shared.records import Records
from ..shared.schedule import Schedule
from .rows import Row
from .search import Cell, Found, wanted
from .train import cell_of
from .train import run as train

IDENTITY = ("study", "method", "lr", "factor", "seed", "steps")


@dataclass(frozen=True)
class Run:
    """One training run: a row's key and the cell."""

    name: str
    cell: Cell


def records_at(path: Path) -> Records:
    """Return the records that lie in a file: one a row, learning rate, factor, seed and number of steps."""
    return Records(path, IDENTITY)


def losses_of(records: list[dict]) -> dict[str, Found]:
    """Return the losses by which rates are chosen, by row and cell; infinite where training diverged."""
    found: dict[str, Found] = {}
    for record in records:
        loss = record["choosing_loss"]
        key = f"{record['study']}/{record['method']}"
        found.setdefault(key, {})[cell_of(record)] = math.inf if loss is None else loss
    return found


@dataclass
class Bench:
    """What is to be run: rows by key, in order. failed: why some were dropped."""

    records: Records
    data: Path
    rows: dict[str, Row]
    failed: dict[str, str] = field(default_factory=dict)

    def wanted(self, key: str) -> list[Run]:
        """Return the runs of one row that can start now."""
        row, there = self.rows[key], self.records.all()
        for record in there:
            if (record["study"], record["method"]) == (row.study, row.name):
                self.records.check(record, row.settings(record["steps"]))
        found = losses_of(there)
        plan = row.plan(found)
        return [] if plan is None else [Run(key, cell) for cell in wanted(found.get(key, {}), plan)]

    def measure(self, pool: Executor, jobs: int, minutes: float = math.inf) -> None:
        """Carry out all runs.

        Args:
            pool: where they run.
            jobs: how many at a time.
            minutes: start none that would end later.
        """
        work = partial(carry_out, rows=self.rows, data=self.data, records=self.records)
        self.failed = Schedule(self.rows, self.wanted, work, outcome).measure(pool, jobs, minutes)


def carry_out(run: Run, rows: dict[str, Row], data: Path, records: Records) -> dict:
    """Train once on one thread, keep the record and return it.

    Args:
        run: row and cell.
        rows: by key.
        data: folder of the text.
        records: where the record is kept.
    """
    torch.set_num_threads(1)
    row, start = rows[run.name], time.monotonic()
    record = {
        "study": row.study,
        "method": row.name,
        **asdict(run.cell),
        "settings": row.settings(run.cell.steps),
        **train(row.method, run.cell, row.budget, row.budget.text(data)),
        "run_seconds": round(time.monotonic() - start, 1),
        "environment": environment(device=row.budget.device),
    }
    records.put(record)
    return record


def outcome(run: Run, record: dict) -> str:
    """Return what is said of a run that ended."""
    loss = record["choosing_loss"]
    return (
        f"{run.name} lr={run.cell.lr:g} x{run.cell.factor:g} seed={run.cell.seed} steps={run.cell.steps}: loss "
        f"{'diverged' if loss is None else f'{loss:.4f}'}, {human(record['state_bytes'])} of state, "
        f"{record['cpu_seconds_per_step']['median']:.4f} CPU s/step, {record['run_seconds']:.0f} s"
    )
