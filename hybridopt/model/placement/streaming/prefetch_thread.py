"""The thread that fetches beside the computation."""

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

__all__ = ["Helper"]

Task = tuple[Callable[[], None], "Future[None]"]
PATIENCE = 5.0  # seconds that the end of the program waits for what is being fetched
_EVERY: "weakref.WeakSet[Helper]" = weakref.WeakSet()


class Helper:
    """One thread that works off tasks in the order in which they came.

    It begins with the first task, and ends with the object; a disk that never answers does not keep the program from
    ending.
    """

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._thread = threading.Thread(target=_work, args=(self._tasks,), name="hybridopt-placement", daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, self._tasks.put, None)
        _EVERY.add(self)

    def submit(self, task: Callable[[], None]) -> "Future[None]":
        """Let a task be done, and return what tells when it is and what went wrong."""
        future: Future[None] = Future()
        self._tasks.put((task, future))
        return future

    def finish(self) -> None:
        """Wait until all that was submitted is done, or has failed."""
        self.submit(_nothing).result()

    def end(self, patience: float | None = None) -> None:
        """End the thread after what was submitted, and wait for it; at most `patience` seconds."""
        self._end()
        if threading.current_thread() is not self._thread:  # objects are collected in any thread
            self._thread.join(patience)


def _work(tasks: "SimpleQueue[Task | None]") -> None:
    while (item := tasks.get()) is not None:
        task, future = item
        if future.set_running_or_notify_cancel():
            try:
                task()
            except BaseException as error:  # whoever waits for it is told
                future.set_exception(error)
            else:
                future.set_result(None)
        del item, task, future  # while it waits it keeps no model


def _nothing() -> None:
    pass


def _end_all() -> None:
    last = time.monotonic() + PATIENCE
    for helper in list(_EVERY):
        helper.end(max(0.0, last - time.monotonic()))


atexit.register(_end_all)
