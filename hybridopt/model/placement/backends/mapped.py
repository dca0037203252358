"""The CPU computes with weights in the very files that hold them: pages are read ahead, and given back."""

import warnings
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import torch

from ....core.contracts import Piece, PlacedUnit, PlacementBackend, Traffic
from ....core.errors import HybridOptError, HybridOptWarning
from ....core.files.mapping import Extent, MappedFile, runs
from ....core.files.pages import copies
from ....core.host_memory import left
from ...deferred_checksums import LaterChecksum
from ..guarding.foreign_writes import Marks, refuse_written
from ..placement import Placement
from ..storage.drive_endurance import Endurance
from ..storage.working_file import WorkingFile, spaced

__all__ = ["Mapped", "keeps_cached"]

ROOT = Path("/")


def keeps_cached(size: int, memory: int | None) -> bool:
    """Return whether what was dropped may stay in the cache of the system: if all of it fits there.

    Args:
        size: bytes of all weights that are read from disk.
        memory: bytes that the host has left, those of its cache among them; None: not known.
    """
    return memory is not None and size <= memory


class Mapped(PlacementBackend):
    """Weights are views of maps of their files, so that fetching copies nothing.

    Those that are trained are copied when they are written while they are near, and kept in a working file.

    Args:
        device: the CPU.
        traffic: counts what is read: the bytes of the weights, not those beside them in the same pages.
        options: whether the system may keep what was dropped (`keep_cached`), and the folder of working files
            (`cache`).
    """

    def __init__(self, device: torch.device, traffic: Traffic, options: Placement):
        self._traffic, self._cached = traffic, options.keep_cached
        self._files: dict[Path, MappedFile] = {}
        self._runs: dict[PlacedUnit, list[tuple[MappedFile, Extent]]] = {}
        self._sums: dict[PlacedUnit, list[LaterChecksum]] = {}
        self._cache = None if options.cache is None else Path(options.cache).absolute()
        self._copied: set[Piece] = set()  # near, and in memory of their own
        self._marks = Marks()
        self._left: deque[tuple[MappedFile, Extent]] = deque()  # pages that nobody needs, not given back yet
        self._room = 0  # bytes that all units would take in a working file
        self._working: WorkingFile | None = None
        self._endurance = Endurance(options)

    keeps_memory = True

    @staticmethod
    def serves(base: str, device: torch.device) -> bool:
        """Serve weights on disk for the CPU."""
        return base == "disk" and device.type == "cpu"

    def adopt(self, unit: PlacedUnit) -> None:
        """Make every tensor of a unit a view of its file."""
        for piece in unit.pieces:
            self._map(piece)
            self._room += spaced(piece.nbytes)
        self._runs[unit] = self._runs_of(unit.pieces)
        self._sums[unit] = [LaterChecksum(x.tensor, self._file(x), x.extent, x.checksum, x.crc32) for x in unit.pieces]

    def fetch(self, unit: PlacedUnit) -> None:
        """Read the pages of a unit, once those of units at rest were given back: beside the computation, too."""
        self._give_back()
        self.join(unit)
        self._refuse_written(unit)
        for file, run in self._runs[unit]:
            file.fetch(run)
        self._traffic.read += unit.nbytes
        for later in self._sums[unit]:
            later.near()

    def bind(self, unit: PlacedUnit) -> None:
        """Do nothing: the tensors are where they always are."""

    def join(self, unit: PlacedUnit) -> None:
        """Look whether the files of a unit are what they were: pages that were cut off cannot be read any more."""
        for file in {file for file, _ in self._runs[unit]}:
            file.check()

    def changed(self, unit: PlacedUnit) -> None:
        """Take the values of the tensors for theirs."""
        self._marks.set(unit.pieces)

    def unchanged(self, unit: PlacedUnit, piece: Piece) -> None:
        """Forget the last write to a tensor, which has left its values as they were."""
        self._marks.forgive(piece)

    def write(self, unit: PlacedUnit, pieces: Sequence[Piece]) -> None:
        """Copy tensors to memory of their own."""
        self._refuse_written(unit)
        for piece in pieces:
            if piece not in self._copied:
                self._copied.add(piece)
                piece.point(piece.tensor.data.clone())
        self._marks.set(pieces)
        for file, run in self._runs_of(pieces):
            file.drop(run)

    def spend(self, pieces: Sequence[Piece]) -> None:
        """Raise HybridOptError if the drive is not to be written so many more bytes today."""
        self._endurance.spend(sum(piece.nbytes for piece in pieces))

    def keep(self, unit: PlacedUnit, pieces: Sequence[Piece]) -> None:
        """Write tensors to a working file, which is where they rest from now on."""
        working = self._working_file()
        for piece in pieces:
            extent = piece.extent if piece.file == working.path else working.reserve(piece.nbytes)
            working.write(extent, piece.tensor.data)
            piece.file, piece.extent = working.path, extent
            self._traffic.written += piece.nbytes
        self._marks.set(pieces)
        self._runs[unit] = self._runs_of(unit.pieces)

    def rest(self, unit: PlacedUnit) -> None:
        """Let the next fetch give the pages of a unit back; HybridOptError where something was written to them."""
        self._refuse_written(unit)
        for piece in self._copied.intersection(unit.pieces):
            self._map(piece)
            self._copied.discard(piece)
        if self._cached is None:
            total = sum(stop - start for own in self._runs.values() for _, (start, stop) in own)
            self._cached = keeps_cached(total, left(ROOT))
        self._left.extend(self._runs[unit])

    def written(self, unit: PlacedUnit) -> bool:
        """Return whether a weight of a unit was written to, which is then in memory alone."""
        return any(file.written(run) for file, run in self._runs[unit])

    def unlock(self, unit: PlacedUnit) -> None:
        """Let the pages of a unit be copied when they are written, where they are locked until then."""
        for file, run in self._runs[unit]:
            file.unlock(run)

    def release(self, unit: PlacedUnit) -> None:
        """Give pages back; the tensors stay views of their files."""
        self._give_back()

    def _give_back(self) -> None:
        while self._left:
            file, run = self._left.popleft()
            if not file.written(run):  # meanwhile; that is told when its unit is fetched
                file.drop(run, bool(self._cached))

    def _map(self, piece: Piece) -> None:
        x = piece.tensor
        piece.point(self._file(piece).tensor(piece.extent, tuple(x.shape), x.dtype))
        self._marks.set([piece])

    def _runs_of(self, pieces: Sequence[Piece]) -> list[tuple[MappedFile, Extent]]:
        """Return the pages that tensors lie in."""
        extents: dict[MappedFile, list[Extent]] = {}
        for piece in pieces:
            extents.setdefault(self._file(piece), []).append(piece.extent)
        return [(file, run) for file, own in extents.items() for run in runs(own)]

    def _working_file(self) -> WorkingFile:
        if self._working is None:
            assert self._cache is not None  # the optimizer has looked
            self._working = WorkingFile(self._cache, self._room)
            self._files[self._working.path] = self._working
        return self._working

    def _refuse_written(self, unit: PlacedUnit) -> None:
        for piece in self._marks.changed(unit.pieces, writes=False):
            refuse_written(unit, piece.name)
        for piece in self._marks.changed(self._copied.intersection(unit.pieces)):
            refuse_written(unit, piece.name)
        if self.written(unit):
            refuse_written(unit)

    def _file(self, piece: Piece) -> MappedFile:
        if piece.file is None:
            raise HybridOptError(
                f"{piece.name!r} is in memory, and no file holds it as it is used; take hybridopt.load(folder, "
                "placement=...), with Placement('disk', cache=FOLDER) where weights are quantized or cast",
                "placement",
            )
        if piece.file not in self._files:
            if not self._files and not copies():
                _warn()
            self._files[piece.file] = MappedFile(piece.file)
        return self._files[piece.file]


def _warn() -> None:
    warnings.warn(
        "placement='disk': files of weights can only be mapped for reading, as the memory of this process is limited "
        "(RLIMIT_DATA, `ulimit -d`) or /proc/self/pagemap cannot be read: to write to a weight at rest in place "
        "(weight.mul_(2)) would end the process (SIGSEGV) here, where it is an error else. Call model.hybrid.unwrap() "
        "before you change weights yourself, or lift the limit",
        HybridOptWarning,
        stacklevel=2,
    )
