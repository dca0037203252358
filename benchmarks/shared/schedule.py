"""Training runs carried out several at a time, for as long as there is time."""

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn


class Run(Protocol):
    """One training run of a method."""

    @property
    def name(self) -> str:
        """Return that of the method."""


Some = TypeVar("Some", bound=Run)


@dataclass
class Schedule(Generic[Some]):
    """What is to be run, and how far it is.

    names: the methods. wanted: returns the runs of a method that can start now, none whose record is there.
    carry_out: makes a run in a worker and returns its record, with "run_seconds". said: returns what is printed of a
    run that ended. failed: why methods were dropped.
    """

    names: Iterable[str]
    wanted: Callable[[str], list[Some]]
    carry_out: Callable[[Some], dict]
    said: Callable[[Some, dict], str]
    failed: dict[str, str] = field(default_factory=dict)
    _queue: list[Some] = field(default_factory=list)
    _busy: dict[Future, Some] = field(default_factory=dict)
    _longest: float = 0.0  # seconds of a run

    def measure(self, pool: Executor, jobs: int, minutes: float = math.inf) -> dict[str, str]:
        """Carry out all runs.

        Args:
            pool: where they run.
            jobs: how many at a time.
            minutes: start none that would end later if it took as long as the longest so far.

        Returns:
            Why methods were dropped, by name.
        """
        end = time.monotonic() + 60 * minutes
        self._refill()
        with bar() as progress:
            task = progress.add_task("runs", total=None)
            while self._queue or self._busy:
                self._start(pool, jobs, end)
                progress.update(task, total=progress.tasks[0].completed + len(self._busy) + len(self._queue))
                if not self._busy:
                    progress.console.print(f"no time for the {len(self._queue)} runs that wait: run again")
                    break
                for future in wait(self._busy, return_when=FIRST_COMPLETED).done:
                    progress.console.print(self._finish(future))
                    progress.advance(task)
        return self.failed

    def _refill(self) -> None:
        """Queue what can start now of every method that has nothing under way; the first methods come first."""
        under_way = {run.name for run in [*self._queue, *self._busy.values()]}
        for name in self.names:
            if name not in under_way and name not in self.failed:
                self._queue += self.wanted(name)
        place = {name: i for i, name in enumerate(self.names)}
        self._queue.sort(key=lambda run: place[run.name])

    def _start(self, pool: Executor, jobs: int, end: float) -> None:
        while self._queue and len(self._busy) < jobs and time.monotonic() + self._longest < end:
            run = self._queue.pop(0)
            self._busy[pool.submit(self.carry_out, run)] = run

    def _finish(self, future: Future) -> str:
        """Queue what can follow, and return how this run ended; a method that raises is dropped."""
        run = self._busy.pop(future)
        if error := future.exception():
            self.failed[run.name] = f"{type(error).__name__}: {error}"
            self._queue = [other for other in self._queue if other.name != run.name]
            said = f"{run} failed: {self.failed[run.name]}"
        else:
            record = future.result()
            self._longest = max(self._longest, record["run_seconds"])
            said = self.said(run, record)
        self._refill()
        return said


def bar() -> Progress:
    """Return a progress bar with counts and elapsed time."""
    return Progress(*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
