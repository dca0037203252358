"""How fast a run trains, evaluations and checkpoints left out."""

import time
from collections.abc import Callable

__all__ = ["Stopwatch"]


class Stopwatch:
    """Seconds since a run began, and those of them in which it has trained.

    Args:
        before: seconds that the run had taken before it was resumed.
        clock: returns seconds.
    """

    def __init__(self, before: float = 0.0, clock: Callable[[], float] = time.perf_counter):
        self._clock, self._start, self._before = clock, clock(), before
        self._mark, self._paused = self._start, 0.0

    @property
    def seconds(self) -> float:
        """Return the seconds since the run began, with all that is no training."""
        return self._before + self._clock() - self._start

    @property
    def training(self) -> float:
        """Return the seconds that were spent on training since the run began or was resumed."""
        return self._clock() - self._start - self._paused

    def mark(self) -> None:
        """Note that training ends here, for what may come before it goes on."""
        self._mark = self._clock()

    def pause(self) -> None:
        """Leave out all that has happened since the last mark or pause."""
        now = self._clock()
        self._paused += now - self._mark
        self._mark = now
