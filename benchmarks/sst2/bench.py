"""Carries out the runs of the SST-2 table one by one; each leaves a record."""

from dataclasses import dataclass
from functools import partial

from rich.progress import Progress

from ..shared.environment import environment
from ..shared.records import Records
from .data import Splits
from .methods import METHODS, Budget, settings_of
from .search import next_lr, quality
from .train import run as train


@dataclass
class Bench:
    """What all runs share, and where their records are kept; a run whose record is there is not made again."""

    records: Records
    budget: Budget
    splits: Splits
    progress: Progress

    def record(self, name: str, lr: float, seed: int) -> dict:
        """Return the record of one run, made now if it is not there.

        Args:
            name: of the method.
            lr: learning rate.
            seed: of weights, order and subspaces.
        """
        run, settings = {"method": name, "lr": lr, "seed": seed}, settings_of(METHODS[name], self.budget)
        return self.records.find(settings, **run) or self.make(run, settings)

    def make(self, run: dict, settings: dict) -> dict:
        """Train once, keep the record and return it."""
        name, lr, seed = run.values()
        said = f"{name} lr={lr:g} seed={seed}"
        task = self.progress.add_task(said, total=self.budget.steps)
        advance = partial(self.progress.advance, task)
        measured = train(METHODS[name], lr, seed, self.budget, self.splits, advance)
        self.progress.remove_task(task)
        record = run | {"settings": settings, **measured, "environment": environment()}
        self.records.put(record)
        self.progress.console.print(f"{said}: {outcome(record)}")
        return record

    def search(self, name: str, tries: int) -> None:
        """Try learning rates with seed 0: the method's own first, then around the best so far."""
        found = {lr: self.record(name, lr, 0) for lr in METHODS[name].lrs[:tries]}
        while len(found) < tries:
            lr = next_lr({lr: quality(record) for lr, record in found.items()})
            found[lr] = self.record(name, lr, 0)


def outcome(record: dict) -> str:
    """Return what is said of a run that ended."""
    return (
        f"validation {record['validation']['accuracy']:.4f}, test {record['test']['accuracy']:.4f}, "
        f"{record['state_bytes']} bytes of state, {record['seconds_per_step']['median']:.3f} s/step"
    )
