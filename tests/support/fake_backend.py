"""A way to carry weights that carries none: it knows where every unit is, and fails where it is told to."""

import threading

import torch
from torch import nn

from hybridopt.core.contracts import Piece, PlacedUnit, PlacementBackend, Traffic
from hybridopt.model.placement.placement import Placement
from hybridopt.model.placement.streaming.streamer import Streamer

SIZE = 8  # bytes of a unit


class Fake(PlacementBackend):
    """Units are at "rest", "open", "there" or "bound".

    Args:
        device: unused.
        traffic: counts what would be read.
        options: with the slots that may never be exceeded.
    """

    def __init__(self, device, traffic, options):
        self._traffic, self.slots = traffic, options.slots
        self.state: dict[PlacedUnit, str] = {}
        self.fails: dict[tuple[str, int], BaseException] = {}  # by call, and index of the unit: raised once
        self.calls: list[tuple[str, int]] = []
        self.fetching: PlacedUnit | None = None
        self.most = 0
        self.gates: dict[int, threading.Event] = {}  # by index of the unit: what its fetch waits for

    @staticmethod
    def serves(base, device) -> bool:
        return False

    def adopt(self, unit):
        self.state[unit] = "rest"

    def open(self, unit):
        assert self.state[unit] == "rest", f"{unit.name} is opened twice"
        self.state[unit] = "open"
        self.most = max(self.most, sum(state != "rest" for state in self.state.values()))
        self._may_fail("open", unit)

    def fetch(self, unit):
        self.fetching = unit
        try:
            if unit.index in self.gates:
                self.gates[unit.index].wait(10)
            assert self.state[unit] == "open"
            self._may_fail("fetch", unit)
            self.state[unit] = "there"
            self._traffic.read += SIZE
        finally:
            self.fetching = None

    def bind(self, unit):
        assert self.state[unit] == "there"
        self._may_fail("bind", unit)
        self.state[unit] = "bound"

    def rest(self, unit):
        assert not (self.threaded and self.fetching is unit), f"{unit.name} is still being fetched"
        self._may_fail("rest", unit)
        self.state[unit] = "rest"

    def release(self, unit):
        assert self.state.pop(unit) == "rest"

    def _may_fail(self, call, unit):
        self.calls.append((call, unit.index))
        error = self.fails.pop((call, unit.index), None)
        if error is not None:
            raise error


class Alone(Fake):
    """Fetches in the thread that computes."""

    threaded = False


def fake_streamer(count: int = 5, slots: int = 3, ahead: int = 1, backend=Fake) -> Streamer:
    """A streamer of units that hold nothing."""
    units = [PlacedUnit(f"layers.{i}", nn.Module(), i, [Piece("w", "w", torch.empty(0))]) for i in range(count)]
    placement, traffic = Placement("disk", slots=slots, ahead=ahead), Traffic()
    carrier = backend(torch.device("cpu"), traffic, placement)
    for unit in units:
        carrier.adopt(unit)
    return Streamer(units, carrier, placement, traffic)
