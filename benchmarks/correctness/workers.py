"""Processes that work on case after case; one that crashes, hangs or has lost its device is replaced."""

import multiprocessing
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from threading import Thread

from ..shared.lost_device import is_lost
from .case import Case

SECONDS = 60.0  # for one case
IMPORTS = 300.0  # for a process to begin
GRACE = 10.0  # for a process that has closed its connection to end
READY = "ready"


def serve(ours: Connection, device: str) -> None:
    """Work on the cases that are sent, and send their rows back."""
    import torch

    from .outcome import outcomes

    torch.set_num_threads(1)
    ours.send(READY)
    while (case := ours.recv()) is not None:
        ours.send(outcomes(case, device))


class Worker:
    """A process, begun when it is needed."""

    def __init__(self, device: str):
        self.device = device
        self._process: multiprocessing.process.BaseProcess | None = None

    def rows(self, case: Case) -> list[dict]:
        """Return the rows of a case, or one that says why there are none."""
        try:
            if self._process is None or not self._process.is_alive():
                self._begin()
            self._theirs.send(case)
            if self._theirs.poll(SECONDS):
                return self._sound(self._theirs.recv())
            why = f"stopped after {SECONDS:.0f} s"
        except (EOFError, OSError):
            why = f"its process ended: {self._ended()}"
        self.end()
        return [{"case": str(case), "check": case.check, "state": "fail", "said": why}]

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = None

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._theirs, ours = context.Pipe()
        self._process = context.Process(target=serve, args=(ours, self.device), daemon=True)
        self._process.start()
        ours.close()
        if self._theirs.poll(IMPORTS):
            self._theirs.recv()

    def _sound(self, rows: list[dict]) -> list[dict]:
        """Return the rows; a process that has lost its device gets no further case."""
        if any(is_lost(row["said"]) for row in rows):
            self.end()
        return rows

    def _ended(self) -> int | None:
        assert self._process is not None
        self._process.join(GRACE)
        return self._process.exitcode


def work(cases: Iterable[Case], jobs: int, device: str, keep: Callable[[list[dict]], object]) -> None:
    """Work on cases, several at a time, and keep the rows of each at once.

    Args:
        cases: in the order in which they are begun.
        jobs: processes.
        device: "cpu" or "cuda".
        keep: is given the rows of a case, in whichever thread.
    """
    waiting: SimpleQueue[Case] = SimpleQueue()
    for case in cases:
        waiting.put(case)

    def go() -> None:
        worker = Worker(device)
        try:
            while True:
                keep(worker.rows(waiting.get_nowait()))
        except Empty:
            worker.end()

    threads = [Thread(target=go) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
