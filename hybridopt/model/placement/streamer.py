"""The units of one model that are near, fetched when they are asked for, and before where the order is known."""

import os
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from ...core.contracts import PlacedUnit, PlacementBackend, Traffic
from .order import Order
from .placement import Placement

__all__ = ["Streamer", "in_backward"]

_EVERY: "weakref.WeakSet[Streamer]" = weakref.WeakSet()


def in_backward() -> bool:
    """Return whether the caller runs within a backward pass."""
    return torch._C._current_graph_task_id() != -1


class Streamer:
    """Keeps at most `slots` units of a model near, in the order in which they were last begun.

    Args:
        units: in the order of the model.
        backend: carries them.
        placement: how many are near, and how many are fetched ahead.
        traffic: counts what is moved.
    """

    def __init__(self, units: Sequence[PlacedUnit], backend: PlacementBackend, placement: Placement, traffic: Traffic):
        self.units, self.backend, self.placement, self.traffic = list(units), backend, placement, traffic
        self.order = Order()
        self._near: dict[PlacedUnit, None] = {}  # the least recently begun first
        self._coming: dict[PlacedUnit, Future[None]] = {}
        self._lock = threading.RLock()  # backward passes on a GPU run in threads of their own
        self._helper: ThreadPoolExecutor | None = None
        _EVERY.add(self)

    @property
    def near(self) -> list[PlacedUnit]:
        """Return the units that are near, and those that are on their way."""
        with self._lock:
            return [*self._near, *self._coming]

    def settle(self) -> None:
        """Wait until what is on its way is there; raise what went wrong with it."""
        for future in list(self._coming.values()):
            future.result()

    def need(self, unit: PlacedUnit) -> None:
        """Let a unit be computed with; raise what went wrong while it was fetched."""
        with self._lock:
            self.order.asked(unit.index, in_backward())
            if unit not in self._near:
                began = time.perf_counter()
                self._fetched(unit)
                self.traffic.waited += time.perf_counter() - began
                self.backend.bind(unit)
            self._near[unit] = self._near.pop(unit, None)
            self._ahead(unit)

    def rest(self) -> None:
        """Drop all units: every weight is where it rests."""
        with self._lock:
            for unit, future in list(self._coming.items()):
                future.exception()  # what went wrong with a fetch that nobody asked for does not matter
                del self._coming[unit]
                self.backend.rest(unit)
            while self._near:
                self._drop(next(iter(self._near)))

    def close(self) -> None:
        """Drop all units, end the helper thread, and give every unit up."""
        with self._lock:
            self.rest()
            if self._helper is not None:
                self._helper.shutdown()
                self._helper = None
            for unit in self.units:
                self.backend.release(unit)

    def _fetched(self, unit: PlacedUnit) -> None:
        future = self._coming.pop(unit, None)
        if future is None:
            self._room(unit)
            self.backend.open(unit)
            self._fetch(unit)
        else:
            future.result()

    def _ahead(self, unit: PlacedUnit) -> None:
        """Begin to fetch what is expected next, as far as there are slots."""
        wanted = [self.units[index] for index in self.order.expected(self.placement.ahead)]
        for other in wanted:
            if other in self._near or other in self._coming:
                continue
            if not self._room(other, keep=[unit, *wanted]):
                return
            self._coming[other] = self._begun(other)

    def _room(self, unit: PlacedUnit, keep: Sequence[PlacedUnit] = ()) -> bool:
        """Drop the units that were begun longest ago until there is a slot for another; False: all are to be kept."""
        while len(self._near) + len(self._coming) >= self.placement.slots:
            old = next((each for each in self._near if each is not unit and each not in keep), None)
            if old is None:
                if not keep and self._coming:  # nothing is in use: what was expected comes in vain
                    other, future = next(iter(self._coming.items()))
                    future.exception()
                    del self._coming[other]
                    self.backend.rest(other)
                    continue
                return False
            self._drop(old)
        return True

    def _drop(self, unit: PlacedUnit) -> None:
        del self._near[unit]
        self.backend.rest(unit)

    def _fetch(self, unit: PlacedUnit) -> None:
        began = time.perf_counter()
        self.backend.fetch(unit)
        self.traffic.fetches += 1
        self.traffic.fetching += time.perf_counter() - began

    def _begun(self, unit: PlacedUnit) -> Future[None]:
        """Begin to fetch a unit, in the helper thread where that takes time."""
        self.backend.open(unit)
        if self.backend.threaded:
            return self._thread().submit(self._fetch, unit)
        done: Future[None] = Future()
        try:
            self._fetch(unit)
            done.set_result(None)
        except Exception as error:  # whoever needs the unit raises it
            done.set_exception(error)
        return done

    def _thread(self) -> ThreadPoolExecutor:
        if self._helper is None:
            self._helper = ThreadPoolExecutor(1, "hybridopt-placement")
        return self._helper


def _forget_threads() -> None:
    """Let a forked child make helper threads of its own: those of its parent are not there."""
    for streamer in list(_EVERY):
        streamer._helper, streamer._lock = None, threading.RLock()
        streamer._coming.clear()


os.register_at_fork(after_in_child=_forget_threads)
