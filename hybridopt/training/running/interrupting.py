"""Ctrl-C: while there is something to save the first ends a run after that, and the second at once; else the first."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .ranks import ALONE, Ranks

__all__ = ["Stop", "stoppable"]

TWICE = 2.0  # seconds, within which a second signal is the first once more


class Stop:
    """Whether a run has been asked to end.

    ranks: the processes that carry it out; all of them end after the same step.
    """

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self.asked = False
        self.ranks = ranks
        self.first: str | None = None

    @contextmanager
    def later(self, first: str) -> Iterator[None]:
        """Let what is under way come to its end after a first Ctrl-C; elsewhere that ends the run at once.

        first: what is told then.
        """
        before, self.first = self.first, first
        try:
            yield
        finally:
            self.first = before

    def callback(self) -> Any:
        """Return a callback of transformers that saves and ends training after the step that is under way."""
        from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

        stop = self

        class Stopping(TrainerCallback):
            def on_step_end(
                self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
            ) -> None:
                stop.asked = stop.ranks.any(stop.asked)
                if stop.asked:
                    control.should_save = control.should_training_stop = True

        return Stopping()


@contextmanager
def stoppable(note: Callable[[str], object], ranks: Ranks = ALONE) -> Iterator[Stop]:
    """Let Ctrl-C raise KeyboardInterrupt as ever, but for the first within `Stop.later`, which is noted.

    With several processes the second counts only a while after the first, as the terminal and the launcher both pass
    on the first.

    Args:
        note: is called with what is told then.
        ranks: the processes of the run.
    """
    stop = Stop(ranks)
    if threading.current_thread() is not threading.main_thread():  # only that one hears of signals
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    begun: list[float] = []

    def heard(number: int, frame: FrameType | None) -> None:
        if begun and ranks.world.size > 1 and time.monotonic() - begun[0] < TWICE:
            return
        if begun and callable(before):
            before(number, frame)
            return
        begun.append(time.monotonic())
        stop.asked = True
        if ranks.world.size == 1 or not callable(before):
            signal.signal(signal.SIGINT, before)
        if stop.first is None and callable(before):
            before(number, frame)
        else:
            note(f"Ctrl-C: {stop.first}; once more ends it at once")

    signal.signal(signal.SIGINT, heard)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
