"""Several evaluations of a model in lockstep: each has a thread, and one of them runs at a time, from layer to layer.

So weights that rest elsewhere are fetched once for all of them (ZO2, Wang et al. 2025, does so for the two of MeZO in
code for each kind of model; threads do it for any closure).
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from torch import nn

from .surroundings import Settings, Surroundings

__all__ = ["Sleeper", "lockstep"]

Result = TypeVar("Result")


class Sleeper(Protocol):
    """What is in force only while its evaluation runs."""

    def wake(self) -> None:
        """Be in force from now on."""

    def sleep(self) -> None:
        """Be in force no more, until `wake`."""


def lockstep(
    works: Sequence[Callable[[], Result]],
    sleepers: Sequence[Sleeper],
    layers: Sequence[tuple[nn.Module, Callable[[], None]]],
    modules: list[nn.Module],
) -> list[Result]:
    """Call functions in turn, in threads: each goes on until a layer begins to compute, and then lets the next go on.

    All of them begin with the same random states and settings, and have their own while they run. Afterwards these are
    as the last one has left them.

    Args:
        works: the functions.
        sleepers: what is in force while each of them runs.
        layers: (module, what fetches its weights).
        modules: whose modes (train or eval) each function has for itself.

    Returns:
        What they returned.

    Raises:
        What one of them raised, or what the caller was interrupted by; the others end at their next layer.
    """
    baton = _Baton([_Lane(work, sleeper, modules) for work, sleeper in zip(works, sleepers, strict=True)])
    before = Settings(modules)
    handles = [module.register_forward_pre_hook(_At(baton, fetch), prepend=True) for module, fetch in layers]
    try:
        baton.run()
    except BaseException:
        before.set()
        raise
    finally:
        for handle in handles:
            handle.remove()
    baton.lanes[-1].moment.set()
    return [lane.result for lane in baton.lanes]


class _At:
    """The hook of a layer."""

    def __init__(self, baton, fetch):
        self._baton, self._fetch = baton, fetch

    def __call__(self, *_):
        self._baton.hand_on()
        self._fetch()


class _Ended(BaseException):
    """Ends a function whose result nobody wants any more."""


class _Lane:
    """One of the functions."""

    def __init__(self, work, sleeper, modules):
        self.work, self.sleeper, self.modules = work, sleeper, modules
        self.moment = Settings(modules)
        self.turn = threading.Semaphore(0)
        self.over = False
        self.error = self.result = None
        self.thread = None

    def pause(self):
        self.sleeper.sleep()
        self.moment = Settings(self.modules)

    def resume(self):
        self.moment.set()
        self.sleeper.wake()


class _Baton:
    """Whose turn it is."""

    def __init__(self, lanes):
        self.lanes, self._stop = lanes, False
        self._done = threading.Semaphore(0)

    def run(self):
        """Let all functions run to their end; raise what the first to fail has raised."""
        surroundings = Surroundings()
        for number, lane in enumerate(self.lanes):
            work = surroundings.wrap(partial(self._follow, lane))
            lane.thread = threading.Thread(target=work, name=f"hybridopt-evaluation-{number}", daemon=True)
        begun = False
        try:
            for lane in self.lanes:
                lane.thread.start()
            self.lanes[0].turn.release()
            begun = True
            self._done.acquire()
        finally:
            self._stop = True
            if not begun:
                self.lanes[0].turn.release()  # those that wait are to see that it is over
            self._join()
        errors = [lane.error for lane in self.lanes if lane.error is not None]
        if errors:
            raise errors[0]

    def hand_on(self):
        """Let the next function go on, and wait for the turn of this one; nothing in threads that are none of them."""
        lane = self._current()
        if lane is None:
            return
        following = self._after(lane)
        if following is not None and not self._stop:
            lane.pause()
            following.turn.release()
            lane.turn.acquire()
            lane.resume()
        if self._stop:
            raise _Ended

    def _follow(self, lane):
        lane.turn.acquire()
        try:
            if not self._stop:
                lane.resume()
                lane.result = lane.work()
        except _Ended:
            pass
        except BaseException as error:
            lane.error, self._stop = error, True
        finally:
            try:
                lane.pause()
            except BaseException as error:  # the others must have their turn all the same
                lane.error, self._stop = lane.error or error, True
            lane.over = True
            following = self._after(lane)
            (self._done if following is None else following.turn).release()

    def _current(self):
        me = threading.current_thread()
        return next((lane for lane in self.lanes if lane.thread is me), None)

    def _after(self, lane):
        at = self.lanes.index(lane)
        return next((each for each in (*self.lanes[at + 1 :], *self.lanes[:at]) if not each.over), None)

    def _join(self):
        """Wait for all threads, whatever interrupts: they work on the model."""
        for lane in self.lanes:
            while lane.thread is not None and lane.thread.is_alive():
                try:
                    lane.thread.join()
                except KeyboardInterrupt:
                    continue
