"""Carries out the runs of the pre-training table, several at a time; each leaves a record in a file of its own."""

import math
import time
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

import pretrain_train as train
import results
import torch
from pretrain_budget import Budget
from pretrain_data import Text
from pretrain_methods import Method
from pretrain_records import best, next_rates, record_path, runs_of, tried
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

TEXT: dict[Budget, Text] = {}  # of this process


@dataclass(frozen=True)
class Run:
    """One training run: which method, learning rate and seed."""

    name: str
    lr: float
    seed: int


@dataclass
class Bench:
    """What is to be run, where its records lie, and how far it is."""

    folder: Path
    data: Path
    budget: Budget
    methods: dict[str, Method]
    tries: int
    seeds: list[int]
    queue: list[Run] = field(default_factory=list)
    busy: dict[Future, Run] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    longest: float = 0.0  # seconds of a run

    def path(self, run: Run) -> Path:
        return record_path(self.folder, run.name, run.lr, run.seed)

    def wanted(self, name: str) -> list[Run]:
        """The runs of one method that can start now: first learning rates, then one beyond the edge, then seeds."""
        method, runs = self.methods[name], runs_of(self.folder, name)
        for lr, seed in runs:  # raises for a record that was made with other settings
            results.load(self.path(Run(name, lr, seed)), self.budget.settings(method))
        losses = tried(runs)
        if rates := next_rates(method, losses, self.tries):
            return [Run(name, lr, 0) for lr in rates]
        chosen = best(losses)
        return [Run(name, chosen, seed) for seed in self.seeds if (chosen, seed) not in runs]

    def measure(self, pool: Executor, jobs: int, minutes: float = math.inf) -> None:
        """Carry out all runs, `jobs` at a time; start none that would end after `minutes` if it took the longest."""
        end = time.monotonic() + 60 * minutes
        self.queue = [run for name in self.methods for run in self.wanted(name)]
        with bar() as progress:
            task = progress.add_task("runs", total=None)
            while self.queue or self.busy:
                self.start(pool, jobs, end)
                progress.update(task, total=progress.tasks[0].completed + len(self.busy) + len(self.queue))
                if not self.busy:
                    progress.console.print(f"no time for the {len(self.queue)} runs that wait: run again")
                    return
                for future in wait(self.busy, return_when=FIRST_COMPLETED).done:
                    progress.console.print(self.finish(future))
                    progress.advance(task)

    def start(self, pool: Executor, jobs: int, end: float) -> None:
        """Hand out runs while there is a place and time for them."""
        while self.queue and len(self.busy) < jobs and time.monotonic() + self.longest < end:
            run = self.queue.pop(0)
            future = pool.submit(carry_out, run, self.methods[run.name], self.budget, self.data, self.path(run))
            self.busy[future] = run

    def finish(self, future: Future) -> str:
        """Queue what the method can run next, say how this run ended; a method that raises is dropped."""
        run = self.busy.pop(future)
        if error := future.exception():
            self.failed[run.name] = f"{type(error).__name__}: {error}"
            self.queue = [other for other in self.queue if other.name != run.name]
            return f"{run} failed: {self.failed[run.name]}"
        record = future.result()
        self.longest = max(self.longest, record["run_seconds"])
        if run.name not in self.failed and run.name not in {r.name for r in [*self.queue, *self.busy.values()]}:
            self.queue += self.wanted(run.name)
        return f"{run.name} lr={run.lr:g} seed={run.seed}: {outcome(record)}"


def bar() -> Progress:
    return Progress(*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())


def carry_out(run: Run, method: Method, budget: Budget, data: Path, path: Path) -> dict:
    """In a process of the pool: train once on one thread and publish the record."""
    torch.set_num_threads(1)
    if budget not in TEXT:
        TEXT[budget] = budget.text(data)
    start = time.monotonic()
    measured = train.run(method, run.lr, run.seed, budget, TEXT[budget])
    record = {
        "method": run.name,
        "lr": run.lr,
        "seed": run.seed,
        "settings": budget.settings(method),
        **measured,
        "run_seconds": round(time.monotonic() - start, 1),
        "environment": results.environment() | {"device": device_name(budget.device)},
    }
    results.save(path, record)
    return record


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


def outcome(record: dict) -> str:
    loss = record["validation_loss"]
    return (
        f"loss {'diverged' if loss is None else f'{loss:.4f}'}, {results.human(record['state_bytes'])} of state, "
        f"{record['cpu_seconds_per_step']['median']:.3f} CPU s/step, {record['run_seconds']:.0f} s"
    )
