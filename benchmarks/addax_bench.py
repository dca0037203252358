"""Carries out the runs of the Addax table, several at a time; each leaves a record in a file of its own."""

import json
import math
import time
import warnings
from concurrent.futures import FIRST_COMPLETED, Executor, wait
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import addax_train as train
import results
import torch
from addax_arms import ARMS, Setting
from addax_model import Recipe
from addax_records import choice, next_settings, record_path, runs_of, tried
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

SEARCHED = ("label", "centre", "alpha", "longer")  # of an arm; not part of what decides a run, or told elsewhere


@dataclass(frozen=True)
class Job:
    """Where text, model and records lie, and what all runs share."""

    data: Path
    model: Path
    folder: Path
    recipe: Recipe
    budget: train.Budget

    def settings(self, name: str) -> dict:
        """Everything besides learning rate, alpha and seed that decides a run, as JSON has it."""
        arm = {key: value for key, value in asdict(ARMS[name]).items() if key not in SEARCHED}
        return json.loads(json.dumps({"model": self.model.name} | asdict(self.budget_of(name)) | {"arm": arm}))

    def budget_of(self, name: str) -> train.Budget:
        """The budget of one arm: some take longer."""
        return replace(self.budget, steps=self.budget.steps * ARMS[name].longer)


@dataclass(frozen=True)
class Run:
    """One training run."""

    name: str
    setting: Setting
    seed: int


@cache
def task_of(job: Job) -> train.Task:
    """Read once in each process."""
    return train.task_of(job.data, job.model, job.recipe, job.budget)


@cache
def zero_shot(job: Job) -> dict[str, float]:
    """Test accuracy of the model as it is: of all, of the short and of the long."""
    task = task_of(job)
    return train.test(task.model, task, job.budget)


def carry_out(run: Run, job: Job) -> dict:
    """In a process of the pool: train once on one thread and publish the record."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="the output layer is state-free")  # that is the method here
    task, start = task_of(job), time.monotonic()
    record = {
        "arm": run.name,
        **run.setting._asdict(),
        "seed": run.seed,
        "settings": job.settings(run.name),
        **train.run(ARMS[run.name], run.setting, run.seed, job.budget_of(run.name), task),
        "zero_shot": zero_shot(job),
        "run_seconds": round(time.monotonic() - start, 1),
        "environment": results.environment(),
    }
    results.save(record_path(job.folder, run.name, run.setting, run.seed), record)
    return record


@dataclass
class Bench:
    """What is to be run, and how far it is."""

    job: Job
    arms: list[str]
    tries: int
    seeds: list[int]
    failed: dict[str, str] = field(default_factory=dict)
    longest: float = 0.0  # seconds of a run

    def wanted(self, name: str) -> list[Run]:
        """The runs of one arm that can start now: settings to try with seed 0, then the seeds at the best."""
        model = ARMS[name].like or name
        runs = runs_of(self.job.folder, name)
        for setting, seed in runs:  # raises for a record that was made with other settings
            results.load(record_path(self.job.folder, name, setting, seed), self.job.settings(name))
        theirs = tried(runs_of(self.job.folder, model))
        if more := next_settings(ARMS[model], theirs, self.tries):
            return [Run(name, setting, 0) for setting in more] if model == name else []
        best = choice(theirs)
        return [Run(name, best, seed) for seed in self.seeds if (best, seed) not in runs]

    def measure(self, pool: Executor, jobs: int, minutes: float = math.inf) -> None:
        """Carry out all runs in rounds, `jobs` at a time; start none that would end after `minutes`."""
        end = time.monotonic() + 60 * minutes
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()) as progress:
            bar = progress.add_task("runs", total=0)
            while queue := [run for name in self.arms if name not in self.failed for run in self.wanted(name)]:
                progress.update(bar, total=progress.tasks[0].total + len(queue))
                left = self.round(pool, jobs, queue, end, progress)
                if left:
                    progress.console.print(f"no time for {left} runs that wait: run again")
                    return

    def round(self, pool: Executor, jobs: int, queue: list[Run], end: float, progress: Progress) -> int:
        """Carry out the queue, and return how many runs there was no time for."""
        busy = {}
        while queue or busy:
            while queue and len(busy) < jobs and time.monotonic() + self.longest < end:
                run = queue.pop(0)
                busy[pool.submit(carry_out, run, self.job)] = run
            if not busy:
                break
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                progress.console.print(self.finish(busy.pop(future), future))
                progress.advance(progress.tasks[0].id)
        return len(queue)

    def finish(self, run: Run, future) -> str:
        """Say how this run ended; an arm that raises is dropped after this round."""
        if error := future.exception():
            self.failed[run.name] = f"{type(error).__name__}: {error}"
            return f"{run} failed: {self.failed[run.name]}"
        record = future.result()
        self.longest = max(self.longest, record["run_seconds"])
        return (
            f"{run.name} lr={run.setting.lr:g} alpha={run.setting.alpha} seed={run.seed}: "
            f"validation {record['validation']['accuracy']:.3f}, test {record['test']['all']:.3f}, "
            f"{record['cpu_seconds']:.1f} CPU s, {record['run_seconds']:.0f} s"
        )
