"""An accelerator computes: weights on disk are read into page-locked memory, and copied to the device from there."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ....core.contracts import PlacedUnit, Traffic
from ....core.errors import HybridOptError
from ....core.files.mapping import MappedFile
from ..arena import Arena, Layout, whole_pages
from ..direct import DirectFile, read
from ..lanes.lane import Moment
from ..placement import Placement
from ..ranges import RELAYS, Reading
from .staged import Staged

__all__ = ["Relayed"]


class Relayed(Staged):
    """Units rest in their files, of which at most two are in memory of the host, on their way.

    Args:
        device: that computes. The CPU may stand in for an accelerator: then both sides are buffers of its own.
        traffic: counts what is read and copied.
        options: unused.
    """

    threaded = True

    def __init__(self, device: torch.device, traffic: Traffic, options: Placement):
        super().__init__(device, traffic, options)
        self._mapped: dict[Path, MappedFile] = {}
        self._direct: dict[Path, DirectFile] = {}
        self._readings: dict[PlacedUnit, Reading] = {}
        self._relays: list[tuple[Arena, Moment]] = []  # the one that was used longest ago first

    @staticmethod
    def serves(base: str, device: torch.device) -> bool:
        """Serve weights on disk for accelerators."""
        return base == "disk" and device.type != "cpu"

    @staticmethod
    def holds(units: Sequence[PlacedUnit]) -> int:
        """Return the bytes through which units go: those of the largest one, as often as there are relays."""
        return RELAYS * max((whole_pages(Staged.takes(unit)) for unit in units), default=0)

    @property
    def held(self) -> int:
        """Return the bytes of the host through which weights go."""
        return sum(arena.size for arena, _ in self._relays)

    @property
    def pinned(self) -> int:
        """Return how many of them are page-locked."""
        return sum(arena.size for arena, _ in self._relays if arena.pinned)

    def adopt(self, unit: PlacedUnit) -> None:
        """Make every tensor of a unit a view of its file, and prepare a storage for it on the device."""
        if missing := next((piece for piece in unit.pieces if piece.file is None), None):
            raise HybridOptError(
                f"placement='disk': no file holds {missing.name!r} in the form in which it is used; give "
                "Placement('disk', cache=...), a folder for it, or take placement='host'"
            )
        unit.pieces.sort(key=lambda piece: (str(piece.file), piece.extent))
        resting = [
            self._file(piece.file).tensor(piece.extent, tuple(piece.tensor.shape), piece.tensor.dtype)
            for piece in unit.pieces
        ]
        layout = Layout(resting)
        reading = self._readings[unit] = Reading(unit.pieces, layout)
        self._settle(unit, layout, resting)
        if not self._relays or self._relays[0][0].size < reading.size:
            self._relays = [(self._arena(reading.size, forked=False), None) for _ in range(RELAYS)]

    def fetch(self, unit: PlacedUnit) -> None:
        """Read a unit, and begin to copy it."""
        reading, memory = self._readings[unit], self._sides[unit].memory
        for each in reading.ranges:
            self._mapped[each.file].check()
        arena, moment = self._relays.pop(0)
        try:
            if moment is not None:
                self.lane.finish(moment)
            read(self._direct, reading.ranges, memoryview(arena.map))
            pairs = [(memory[to : to + n], arena.bytes[at : at + n]) for at, to, n in reading.parts]
            self._copy(unit, pairs)
            moment = self._sides[unit].copied
        finally:
            self._relays.append((arena, moment))
        self._traffic.read += unit.nbytes

    def release(self, unit: PlacedUnit) -> None:
        """Forget the storages of a unit; with the last one, give files and memory back."""
        super().release(unit)
        self._readings.pop(unit, None)
        if not self._readings:
            for file in self._direct.values():
                file.close()
            self._direct.clear()
            self._relays.clear()

    def _file(self, path: Path | None) -> MappedFile:
        assert path is not None
        if path not in self._mapped:
            self._mapped[path], self._direct[path] = MappedFile(path), DirectFile(path)
        return self._mapped[path]
