"""Carries out the runs of the Addax table, several at a time; each leaves a record."""

import json
import math
import time
import warnings
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import torch

from ..shared.environment import environment
from ..shared.records import Records
from ..shared.schedule import Schedule
from .arms import ALL, Setting
from .model import Recipe
from .search import choice, next_settings, records_at, runs_of, tried
from .task import Budget, Task, task_of
from .train import run as train
from .train import test

SEARCHED = ("label", "centre", "alpha", "longer")  # of an arm; not part of what decides a run, or told elsewhere


@dataclass(frozen=True)
class Job:
    """Where text, model and the file of the records lie, and what all runs share."""

    data: Path
    model: Path
    file: Path
    recipe: Recipe
    budget: Budget

    @property
    def records(self) -> Records:
        """Return the records of all runs."""
        return records_at(self.file)

    def settings(self, name: str) -> dict:
        """Return everything besides learning rate, alpha and seed that decides a run of an arm, as JSON has it."""
        arm = {key: value for key, value in asdict(ALL[name]).items() if key not in SEARCHED}
        return json.loads(json.dumps({"model": self.model.name} | asdict(self.budget_of(name)) | {"arm": arm}))

    def budget_of(self, name: str) -> Budget:
        """Return the budget of one arm: some take longer."""
        return replace(self.budget, steps=self.budget.steps * ALL[name].longer)


@dataclass(frozen=True)
class Run:
    """One training run of an arm."""

    name: str
    setting: Setting
    seed: int


@cache
def loaded(job: Job) -> Task:
    """Return model and text, read once in each process."""
    return task_of(job.data, job.model, job.recipe, job.budget)


@cache
def zero_shot(job: Job) -> dict[str, float]:
    """Return test accuracy of the model as it is: of all, of the short and of the long."""
    task = loaded(job)
    return test(task.model, task, job.budget)


def carry_out(run: Run, job: Job) -> dict:
    """Train once on one thread, keep the record and return it; in a process of the pool."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="the output layer is state-free")  # that is the method here
    task, start = loaded(job), time.monotonic()
    record = {
        "arm": run.name,
        **run.setting._asdict(),
        "seed": run.seed,
        "settings": job.settings(run.name),
        **train(ALL[run.name], run.setting, run.seed, job.budget_of(run.name), task),
        "zero_shot": zero_shot(job),
        "run_seconds": round(time.monotonic() - start, 1),
        "environment": environment(),
    }
    job.records.put(record)
    return record


@dataclass
class Bench:
    """What is to be run: arms, settings tried for each, seeds at the best. failed: why arms were dropped."""

    job: Job
    arms: list[str]
    tries: int
    seeds: list[int]
    failed: dict[str, str] = field(default_factory=dict)

    def wanted(self, name: str) -> list[Run]:
        """Return the runs of one arm that can start now: settings to try with seed 0, then the seeds at the best."""
        model, records = ALL[name].like or name, self.job.records
        runs = runs_of(records, name)
        for record in runs.values():
            records.check(record, self.job.settings(name))
        theirs = tried(runs_of(records, model))
        if more := next_settings(ALL[model], theirs, self.tries):
            return [Run(name, setting, 0) for setting in more] if model == name else []
        best = choice(theirs)
        return [Run(name, best, seed) for seed in self.seeds if (best, seed) not in runs]

    def measure(self, pool: Executor, jobs: int, minutes: float = math.inf) -> None:
        """Carry out all runs.

        Args:
            pool: where they run.
            jobs: how many at a time.
            minutes: start none that would end later.
        """
        schedule = Schedule(self.arms, self.wanted, partial(carry_out, job=self.job), outcome)
        self.failed = schedule.measure(pool, jobs, minutes)


def outcome(run: Run, record: dict) -> str:
    """Return what is said of a run that ended."""
    return (
        f"{run.name} lr={run.setting.lr:g} alpha={run.setting.alpha} seed={run.seed}: "
        f"validation {record['validation']['accuracy']:.3f}, test {record['test']['all']:.3f}, "
        f"{record['cpu_seconds']:.1f} CPU s, {record['run_seconds']:.0f} s"
    )
