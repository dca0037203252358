"""The units of one model that are near, fetched when they are asked for, and before where the order is known."""

import os
import sys
import threading
import time
import weakref
from collections.abc import Sequence

from torch import Tensor

from ....core.contracts import Piece, PlacedUnit, PlacementBackend, Traffic
from ....core.errors import HybridOptError
from ..placement import Placement
from .fetch_order import BACKWARD, EVALUATION, FORWARD, Order
from .pending_updates import outstanding_for
from .transfers import Carrying, told
from .units_in_use import InUse, caller, in_backward

__all__ = ["Streamer", "in_backward"]

_EVERY: "weakref.WeakSet[Streamer]" = weakref.WeakSet()


class Streamer(Carrying):
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
        super().__init__(units, backend, traffic, outstanding_for(backend, placement))
        self.placement, self.order = placement, Order(len(self.units))
        self._places = {unit: place for place, unit in enumerate(self.units)}
        self._used = InUse()
        self._last: tuple[int, tuple[int, int]] | None = None  # the unit that was needed last, and by whom
        self._lock = threading.RLock()  # backward passes on a GPU run in threads of their own
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
                    raise told(self.units[place], error) from error

    def need(self, unit: PlacedUnit) -> None:
        """Let a unit be computed with.

        Raises:
            HybridOptError: it cannot be fetched, for a reason that lies in its file or disk; or too many threads
                compute with the model at once.
        """
        with self._lock:
            place = self._place(unit)
            visit = place, caller()
            if visit == self._last and self._is_ready(place):  # parts of a layer need it one after the other
                self._join(place)
                return
            self.order.asked(place, BACKWARD if in_backward() else FORWARD if unit.module.training else EVALUATION)
            try:
                self._mend()
                self._used.begin(place)
                if self._slots.get(place, self) is not None:
                    self._bring(place)
                self._slots.move_to_end(place)
                self._join(place)
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
        """Give a tensor other values, near and at rest; nothing may be outstanding.

        Args:
            unit: that it is fetched with.
            piece: the tensor.
            values: of its shape.
        """
        with self._lock:
            self.need(unit)
            self.backend.write(unit, [piece])
            piece.tensor.data.copy_(values)
            self.backend.changed(unit)
            self.backend.keep(unit, [piece])

    def written(self, unit: PlacedUnit) -> None:
        """Take the tensors of a unit for what they are now, if it is near."""
        with self._lock:
            if self._slots.get(self._place(unit), self) is None:
                self.backend.changed(unit)

    def unchanged(self, unit: PlacedUnit, piece: Piece) -> None:
        """Take the last write to a tensor of a unit for one that has left its values as they were."""
        with self._lock:
            self.backend.unchanged(unit, piece)

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
                self._end_helper()
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

    def _place(self, unit: PlacedUnit) -> int:
        if self._closed or unit not in self._places:
            raise HybridOptError(
                f"{unit.name} is not placed any more: the backward pass of a loss that was computed before cannot be "
                "run; compute the loss again"
            )
        return self._places[unit]

    def _is_ready(self, place: int) -> bool:
        near = self._slots.get(place, self) is None
        return near and self._between is None and not self.outstanding.lacks(self.units[place])

    def _join(self, place: int) -> None:
        """Let the caller compute with a unit that is near; one whose file has changed is brought to rest."""
        self._between = place
        try:
            self.backend.join(self.units[place])
        except HybridOptError as error:
            self._last = None
            raise told(self.units[place], error, near=True) from error
        self._between = None

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
            raise told(self.units[place], error) from error
        self._bind(place)

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


def _forget_threads() -> None:
    """Let a forked child make helper threads of its own, and fetch anew what those of its parent were fetching."""
    for streamer in list(_EVERY):
        streamer._lock = threading.RLock()
        streamer._used.clear()
        streamer._last = None
        streamer._fetch_anew()


if sys.platform != "win32":  # which has no forks
    os.register_at_fork(after_in_child=_forget_threads)
