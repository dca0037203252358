"""Ctrl-C: the first ends a run after its step, with a checkpoint; the second at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Stop", "stoppable"]


class Stop:
    """Whether a run has been asked to end."""

    def __init__(self) -> None:
        self.asked = False

    def callback(self) -> Any:
        """Return a callback of transformers that saves and ends training after the step that is under way."""
        from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

        stop = self

        class Stopping(TrainerCallback):
            def on_step_end(
                self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
            ) -> None:
                if stop.asked:
                    control.should_save = control.should_training_stop = True

        return Stopping()


@contextmanager
def stoppable(note: Callable[[str], object]) -> Iterator[Stop]:
    """Let the first Ctrl-C within be noted, and the second raise KeyboardInterrupt as ever.

    note: is called with what is told then.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # only that one hears of signals
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def heard(*_: object) -> None:
        stop.asked = True
        signal.signal(signal.SIGINT, before)
        note("Ctrl-C: a checkpoint is saved after this step, then the run ends; once more ends it at once")

    signal.signal(signal.SIGINT, heard)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
