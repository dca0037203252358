"""Which units are being computed with: by every thread, and by every backward pass."""

import threading
from functools import partial
from typing import Any

import torch

__all__ = ["InUse", "caller", "in_backward"]

NESTED = 2  # backward passes that one thread is in at a time: reentrant checkpoints begin one within another


def in_backward() -> bool:
    """Return whether the caller runs within a backward pass."""
    return torch._C._current_graph_task_id() != -1


def caller() -> tuple[int, int]:
    """Return which backward pass the caller runs in, -1 for none, and in which thread."""
    return torch._C._current_graph_task_id(), threading.get_ident()


class InUse:
    """The unit that each thread computes with forward, and the one that each backward pass computes with.

    A thread is done with its unit when it says so or begins another one, a backward pass when it has ended; on a GPU
    it runs in a thread of torch's. One that ends with an error does not say so.
    """

    def __init__(self) -> None:
        self._used: dict[int, int] = {}  # by thread, and by backward pass (below 0)
        self._threads: set[int] = set()  # that have computed anything forward

    @property
    def places(self) -> set[int]:
        """Return the units, by their places."""
        return set(self._used.values())

    def begin(self, place: int) -> None:
        """Note that the caller computes with a unit from now on, and with no other one."""
        task, thread = caller()
        if task == -1:
            self._threads.add(thread)
            if len(self._threads) == 1:  # whoever could be in a backward pass is here
                self.forget_passes()
            self._used[thread] = place
            return
        self._used.pop(thread, None)
        key = -1 - task
        if key not in self._used:
            self.forget_passes(but=NESTED * max(1, len(self._threads)) - 1)
            engine: Any = torch.autograd.Variable
            engine._execution_engine.queue_callback(partial(self._used.pop, key, None))
        self._used[key] = place

    def end(self) -> None:
        """Note that the caller is done with the unit of a forward pass."""
        self._used.pop(threading.get_ident(), None)

    def forget_passes(self, but: int = 0) -> bool:
        """Forget all backward passes but the latest ones, for they may have failed; return whether there were any."""
        passes = [key for key in list(self._used) if key < 0]  # other threads take theirs out meanwhile
        for key in passes[: max(0, len(passes) - but)]:
            self._used.pop(key, None)
        return len(passes) > but

    def clear(self) -> None:
        """Forget everything."""
        self._used.clear()
