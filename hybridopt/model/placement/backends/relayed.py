"""An accelerator computes: weights on disk are read into page-locked memory, and copied to the device from there."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ....core.contracts import Piece, PlacedUnit, Traffic
from ....core.errors import HybridOptError
from ....core.files.mapping import MappedFile, runs
from ..guarding.foreign_writes import refuse_written
from ..lanes.lane import Moment
from ..placement import Placement
from ..storage.arena import Arena, Layout, whole_pages
from ..storage.direct_io import DirectFile, read
from ..storage.ranges import RELAYS, Reading, by_place, most
from ..storage.working_file import WorkingFile, spaced
from .staged import Staged

__all__ = ["Relayed"]


class Relayed(Staged):
    """Units rest in their files, of which at most two are in memory of the host, on their way.

    Args:
        device: that computes. The CPU may stand in for an accelerator: then both sides are buffers of its own.
        traffic: counts what is read and copied.
        options: the folder of a working file.
    """

    threaded = True

    def __init__(self, device: torch.device, traffic: Traffic, options: Placement):
        super().__init__(device, traffic, options)
        self._mapped: dict[Path, MappedFile] = {}
        self._direct: dict[Path, DirectFile] = {}
        self._readings: dict[PlacedUnit, Reading] = {}
        self._cache = None if options.cache is None else Path(options.cache).absolute()
        self._room = 0  # bytes that all units would take in a working file
        self._working: WorkingFile | None = None
        self._relays: list[tuple[Arena, Moment]] = []  # the one that was used longest ago first

    @staticmethod
    def serves(base: str, device: torch.device) -> bool:
        """Serve weights on disk for accelerators, but those of Apple, whose storages cannot be emptied."""
        return base == "disk" and device.type not in ("cpu", "mps")

    @staticmethod
    def holds(units: Sequence[PlacedUnit]) -> int:
        """Return the bytes through which units go: those of the largest one, as often as there are relays."""
        return RELAYS * max((whole_pages(most(unit)) for unit in units), default=0)

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
        unit.pieces.sort(key=by_place)  # so that they follow on the device as they do there
        resting = [self._at_rest(piece) for piece in unit.pieces]
        layout = Layout(resting)
        self._readings[unit] = Reading(unit.pieces, layout)
        self._settle(unit, layout, resting)
        self._room += sum(spaced(piece.nbytes) for piece in unit.pieces)
        if not self._relays or self._relays[0][0].size < most(unit):
            self._relays = [(self._arena(most(unit), forked=False), None) for _ in range(RELAYS)]

    def fetch(self, unit: PlacedUnit) -> None:
        """Read a unit, and begin to copy it."""
        reading, memory = self._readings[unit], self._sides[unit].memory
        for each in reading.ranges:
            file = self._mapped[each.file]
            file.check()
            if any(file.written(run) for run in runs([(each.start, each.start + each.size)])):
                refuse_written(unit)
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

    def keep(self, unit: PlacedUnit, pieces: Sequence[Piece]) -> None:
        """Write tensors to a working file, which is where they rest from now on."""
        self.join(unit)
        sides, wanted, working = self._sides[unit], set(pieces), self._working_file()
        for index, piece in enumerate(unit.pieces):
            if piece in wanted:
                extent = piece.extent if piece.file == working.path else working.reserve(piece.nbytes)
                working.write(extent, sides.near[index].to("cpu", copy=True))
                piece.file, piece.extent = working.path, extent
                sides.resting[index] = self._at_rest(piece)
                self._traffic.returned += piece.nbytes
                self._traffic.written += piece.nbytes
        sides.kept(wanted)
        self._readings[unit] = Reading(unit.pieces, sides.layout)

    def release(self, unit: PlacedUnit) -> None:
        """Forget the storages of a unit; with the last one, give files and memory back."""
        super().release(unit)
        self._readings.pop(unit, None)
        if not self._readings:
            for file in self._direct.values():
                file.close()
            self._direct.clear()
            self._relays.clear()

    def _take(self, unit: PlacedUnit) -> list[Piece]:
        """Raise HybridOptError for tensors that somebody else has written to, or put others in their place."""
        sides = self._sides[unit]
        for piece in sides.marks.changed(unit.pieces, writes=sides.state == "near"):
            refuse_written(unit, piece.name)
        return []

    def _at_rest(self, piece: Piece) -> Tensor:
        """Return the values of a tensor as a view of its file."""
        assert piece.file is not None  # `adopt` has looked
        if piece.file not in self._mapped:
            self._mapped[piece.file], self._direct[piece.file] = MappedFile(piece.file), DirectFile(piece.file)
        return self._mapped[piece.file].tensor(piece.extent, tuple(piece.tensor.shape), piece.tensor.dtype)

    def _working_file(self) -> WorkingFile:
        if self._working is None:
            if self._cache is None:
                raise HybridOptError(
                    "weights that are trained on disk are written to a folder: give Placement('disk', cache=FOLDER)",
                    "placement",
                )
            self._working = WorkingFile(self._cache, self._room)
            path = self._working.path
            self._mapped[path], self._direct[path] = self._working, DirectFile(path)
        return self._working
