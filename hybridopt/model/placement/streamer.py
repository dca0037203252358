"""The units of one model that are near, fetched when they are asked for, and before where the order is known."""

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

from torch import Tensor

from ...core.contracts import Piece, PlacedUnit, PlacementBackend, Traffic
from ...core.errors import HybridOptError
from .helper import Helper
from .in_use import InUse, caller, in_backward
from .order import BACKWARD, EVALUATION, FORWARD, Order
from .outstanding import Outstanding
from .placement import Placement

__all__ = ["Streamer", "in_backward"]

_EVERY: "weakref.WeakSet[Streamer]" = weakref.WeakSet()


class Streamer:
    """Keeps at most `slots` units of a model near, those that are used soonest.

    Whatever is raised while a unit is carried, an interrupt of the user among it, leaves every unit near or at rest:
    one that was on its way is brought to rest at the next call at the latest.

    Args:
        units: in the order of the model.
        backend: carries them.
        placement: how many are near, and how many are fetched ahead.
        traffic: counts what is moved.
    """

    def __init__(self, units: Sequence[PlacedUnit], backend: PlacementBackend, placement: Placement, traffic: Traffic):
        self.units, self.backend, self.placement, self.traffic = list(units), backend, placement, traffic
        self.order = Order(len(self.units))
        self.outstanding = Outstanding(backend, placement.write_every)
        self._places = {unit: place for place, unit in enumerate(self.units)}
        # what takes a slot, the least recently begun first: None where it is near, else what tells that it is fetched
        self._slots: OrderedDict[int, Future[None] | None] = OrderedDict()
        self._between: int | None = None  # the unit that is being sent for, bound or brought to rest
        self._used = InUse()
        self._last: tuple[int, tuple[int, int]] | None = None  # the unit that was needed last, and by whom
        self._lock = threading.RLock()  # backward passes on a GPU run in threads of their own
        self._helper: Helper | None = None
        self._closed = False
        _EVERY.add(self)

    @property
    def near(self) -> list[PlacedUnit]:
        """Return the units that are near, and those that are on their way."""
        with self._lock:
            return [self.units[place] for place in self._slots]

    def settle(self) -> None:
        """Wait until what is on its way is there; raise what went wrong with it."""
        with self._lock:
            self._mend()
            for place, future in list(self._slots.items()):
                error = future.exception() if future is not None and not future.cancelled() else None
                if error is not None:
                    raise _told(self.units[place], error) from error

    def need(self, unit: PlacedUnit) -> None:
        """Let a unit be computed with.

        Raises:
            HybridOptError: it cannot be fetched, for a reason that lies in its file or disk; or too many threads
                compute with the model at once.
        """
        with self._lock:
            place = self._places[unit]
            visit = place, caller()
            if visit == self._last and self._is_ready(place):  # parts of a layer need it one after the other
                return
            self.order.asked(place, BACKWARD if in_backward() else FORWARD if unit.module.training else EVALUATION)
            try:
                self._mend()
                self._use(place)
                if self._slots.get(place, self) is not None:
                    self._bring(place)
                self._slots.move_to_end(place)
                self._update(place)
                if len(self._slots) < len(self.units):
                    self._ahead(place)
                self._last = visit
            except BaseException:
                self._mend()
                raise

    def done(self, unit: PlacedUnit) -> None:
        """Note that a forward pass through a unit has ended: other threads may let another one take its slot."""
        if not in_backward():
            self._last = None
            self._used.end()

    def catch_up(self) -> None:
        """Make all updates that are outstanding, unit by unit, and drop all: weights at rest are true then."""
        with self._lock:
            for unit in self.outstanding.units():
                self.need(unit)
                self.outstanding.keep(unit)
            self.rest()

    def replace(self, unit: PlacedUnit, piece: Piece, values: Tensor) -> None:
        """Give a tensor of a unit other values, near and at rest; nothing may be outstanding."""
        with self._lock:
            self.need(unit)
            self.backend.write(unit, [piece])
            piece.tensor.data.copy_(values)
            self.backend.keep(unit, [piece])

    def rest(self) -> None:
        """Drop all units: every weight is where it rests. Errors of fetches that nobody asked for are forgotten."""
        with self._lock:
            self._mend()
            self._used.clear()
            self._last = None
            while self._slots:
                self._drop(next(iter(self._slots)))

    def close(self) -> None:
        """Drop all units, end the helper thread, and give every unit up, whatever is wrong with one of them."""
        with self._lock:
            try:
                if not self._closed:
                    self.rest()
            finally:
                if self._helper is not None:
                    self._helper.end()
                    self._helper = None
                for unit in () if self._closed else self.units:
                    self.backend.release(unit)
                self._closed, self._between = True, None
                self._slots.clear()

    def without(self, unit: PlacedUnit) -> "Streamer":
        """Drop all units, give one of them up, and return what fetches the others from now on."""
        with self._lock:
            self.catch_up()
            others = [other for other in self.units if other is not unit]
            self.units = [unit]  # the others are not given up
            self.close()
            return Streamer(others, self.backend, self.placement, self.traffic)

    def _use(self, place: int) -> None:
        """Let a unit have its slot until this thread, or this backward pass, is done with it."""
        if self._closed:
            raise HybridOptError(
                f"{self.units[place].name} is not placed any more: the backward pass of a loss that was computed "
                "before cannot be run; compute the loss again"
            )
        self._used.begin(place)

    def _is_ready(self, place: int) -> bool:
        near = self._slots.get(place, self) is None
        return near and self._between is None and not self.outstanding.lacks(self.units[place])

    def _bring(self, place: int) -> None:
        """Fetch a unit that is not near, or wait for it, and bind it."""
        began = time.perf_counter()
        future = self._slots.get(place)
        if future is not None and future.cancelled():
            self._drop(place)
            future = None
        if future is None:
            self._make_room()
            future = self._send_for(place)
        error = future.exception()
        self.traffic.waited += time.perf_counter() - began
        if error is not None:
            self._drop(place)
            raise _told(self.units[place], error) from error
        self._between = place
        self.backend.bind(self.units[place])
        self._slots[place] = None
        self._between = None

    def _update(self, place: int) -> None:
        """Make the updates that are outstanding for a unit that is near."""
        unit = self.units[place]
        if self.outstanding.lacks(unit):
            self._between = place  # what was updated in part is brought to rest, and fetched again
            self.outstanding.apply(unit)
            self._between = None

    def _ahead(self, place: int) -> None:
        """Begin to fetch what is used next, as far as what is used later can go for it."""
        slots, count = self.placement.slots, self.placement.ahead
        for _ in range(count):
            used = {place, *self._used.places}
            free = {each for each, future in self._slots.items() if each not in used and (not future or future.done())}
            found = self.order.ahead(list(self._slots), free, slots, count)
            if found is None:
                return
            if found[1] is not None:
                self._drop(found[1])
            self._send_for(found[0])

    def _make_room(self) -> None:
        """Drop what is used last until there is a slot."""
        while len(self._slots) >= self.placement.slots:
            used = self._used.places
            free = [each for each in self._slots if each not in used]
            if not free and self._used.forget_passes():
                continue
            if not free:
                slots = self.placement.slots
                raise HybridOptError(
                    f"slots={slots}: more threads than that compute with the model at once, and each needs a layer of "
                    f"its own; give slots={slots + 1} or more, or let them take turns",
                    "placement",
                )
            self._drop(self.order.last_used(free))

    def _send_for(self, place: int) -> "Future[None]":
        """Begin to fetch a unit, in the helper thread where that takes time; it takes a slot from now on."""
        unit = self.units[place]
        self._between = place
        future: Future[None] = Future()
        self._slots[place] = future
        self.backend.open(unit)
        if self.backend.threaded:
            self._slots[place] = future = self._thread().submit(partial(self._fetch, unit))
        else:
            try:
                self._fetch(unit)
                future.set_result(None)
            except Exception as error:  # whoever needs the unit raises it
                future.set_exception(error)
        self._between = None
        return future

    def _drop(self, place: int) -> None:
        future = self._slots[place]
        if future is None:
            self.outstanding.leave(self.units[place])
        elif not future.cancel():
            future.exception()  # a fetch is never cut off
        self._between = place
        self._mend(waited=True)

    def _mend(self, waited: bool = False) -> None:
        """Bring to rest what an error or an interrupt has left on its way, or what is being dropped."""
        if self._between is not None:
            if self._helper is not None and not waited:
                self._helper.finish()
            unit, broken = self.units[self._between], None
            try:
                self.outstanding.dropped(unit)  # before its updates are gone
            except HybridOptError as error:
                broken = error
            self.backend.rest(unit)
            self._slots.pop(self._between, None)
            self._between = None
            if broken is not None:
                raise broken

    def _fetch(self, unit: PlacedUnit) -> None:
        began = time.perf_counter()
        self.backend.fetch(unit)
        self.traffic.fetches += 1
        self.traffic.fetching += time.perf_counter() - began

    def _thread(self) -> Helper:
        if self._helper is None:
            self._helper = Helper()
        return self._helper


def _told(unit: PlacedUnit, error: BaseException) -> BaseException:
    """Return what is raised where a unit could not be fetched: with its name and files."""
    if not isinstance(error, Exception):
        return error
    files = ", ".join(sorted({str(piece.file) for piece in unit.pieces if piece.file is not None}))
    where = "" if not files or files in str(error) else f" from {files}"
    return HybridOptError(f"{unit.name} cannot be fetched{where}: {str(error) or type(error).__name__}", "placement")


def _forget_threads() -> None:
    """Let a forked child make helper threads of its own, and fetch anew what those of its parent were fetching."""
    for streamer in list(_EVERY):
        streamer._helper, streamer._lock = None, threading.RLock()
        streamer._used.clear()
        streamer._last = None
        for place, future in streamer._slots.items():
            if future is not None:
                gone: Future[None] = Future()
                gone.cancel()
                streamer._slots[place] = gone


os.register_at_fork(after_in_child=_forget_threads)
