"""Units on their way between where they rest and where they are near."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

from ....core.contracts import PlacedUnit, PlacementBackend, Traffic
from ....core.errors import HybridOptError
from .pending_updates import Outstanding
from .prefetch_thread import Helper

__all__ = ["Carrying", "told"]


class Carrying:
    """Brings single units near and to rest, in such steps that whatever is raised can be mended.

    Args:
        units: in the order of the model.
        backend: carries them.
        traffic: counts what is moved.
        outstanding: updates of the units that are yet to be made.
    """

    def __init__(
        self, units: Sequence[PlacedUnit], backend: PlacementBackend, traffic: Traffic, outstanding: Outstanding
    ):
        self.units, self.backend, self.traffic = list(units), backend, traffic
        self.outstanding = outstanding
        # what takes a slot, the least recently begun first: None where it is near, else what tells that it is fetched
        self._slots: OrderedDict[int, Future[None] | None] = OrderedDict()
        self._between: int | None = None  # the unit that is being sent for, bound, updated or brought to rest
        self._helper: Helper | None = None

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

    def _bind(self, place: int) -> None:
        """Let a unit that was fetched be computed with."""
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
            self.backend.changed(unit)
            self.outstanding.leave(unit, stays=True)
            self._between = None

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

    def _end_helper(self) -> None:
        if self._helper is not None:
            self._helper.end()
            self._helper = None

    def _fetch_anew(self) -> None:
        """Forget the helper, which a forked child does not have, and what it was fetching."""
        self._helper = None
        for place, future in self._slots.items():
            if future is not None:
                gone: Future[None] = Future()
                gone.cancel()
                self._slots[place] = gone


def told(unit: PlacedUnit, error: BaseException, near: bool = False) -> BaseException:
    """Return what is raised where a unit could not be fetched, or be used: with its name and files.

    Args:
        unit: the unit.
        error: what went wrong.
        near: was it fetched already?
    """
    if not isinstance(error, Exception):
        return error
    files = ", ".join(sorted({str(piece.file) for piece in unit.pieces if piece.file is not None}))
    where = "" if not files or files in str(error) else f" from {files}"
    what = "used" if near else "fetched"
    return HybridOptError(f"{unit.name} cannot be {what}{where}: {str(error) or type(error).__name__}", "placement")
