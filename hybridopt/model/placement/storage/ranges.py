"""Which blocks of which files hold the tensors of a unit, and what goes where once they are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ....core.contracts import Piece, PlacedUnit
from .arena import Layout

__all__ = ["BLOCK", "RELAYS", "Range", "Reading", "by_place", "most"]

RELAYS = 2  # memories of the host that units are read into: one is filled while the other is copied to a device
BLOCK = 4096  # bytes: what disks are read by where the system's cache is left out
GAP = BLOCK  # of foreign bytes between two tensors that are read along with them; with more `most` would be wrong


@dataclass(frozen=True)
class Range:
    """Whole blocks of a file.

    Args:
        file: its path.
        start: the first byte, the beginning of a block.
        size: in bytes, whole blocks.
        least: bytes that the file must have from `start` on; the last block may be cut short by its end.
        at: where they lie in the memory that they are read into.
    """

    file: Path
    start: int
    size: int
    least: int
    at: int


class Reading:
    """How a unit is read.

    Args:
        pieces: its tensors, each with file and extent.
        layout: of the same tensors on the device.
    """

    def __init__(self, pieces: Sequence[Piece], layout: Layout):
        placed = sorted(zip(pieces, layout.offsets, strict=True), key=lambda each: by_place(each[0]))
        self.ranges = _ranges([piece for piece, _ in placed])
        self.parts: list[tuple[int, int, int]] = []  # where from in what was read, where to on the device, bytes
        for piece, to in placed:
            start, end = piece.extent
            held = next(
                r for r in self.ranges if r.file == piece.file and r.start <= start and end <= r.start + r.size
            )
            self._add(held.at + start - held.start, to, end - start)

    @property
    def size(self) -> int:
        """Return the bytes of memory that it is read into."""
        return sum(each.size for each in self.ranges)

    def _add(self, source: int, to: int, size: int) -> None:
        """Add bytes; those that follow on both sides go in one copy."""
        if self.parts:
            before, there, length = self.parts[-1]
            if (before + length, there + length) == (source, to):
                self.parts[-1] = before, there, length + size
                return
        self.parts.append((source, to, size))


def by_place(piece: Piece) -> tuple[str, tuple[int, int]]:
    """Return what orders tensors by their files, and by their places there."""
    return str(piece.file), piece.extent


def most(unit: PlacedUnit) -> int:
    """Return the most bytes that `Reading.size` can be, wherever the tensors of a unit lie."""
    return sum(-(-piece.nbytes // BLOCK) + 1 for piece in unit.pieces) * BLOCK


def _ranges(pieces: Sequence[Piece]) -> list[Range]:
    spans: list[tuple[Path, int, int]] = []
    for piece in pieces:
        assert piece.file is not None  # what no file holds does not rest there
        start, end = piece.extent
        if spans and spans[-1][0] == piece.file and start <= spans[-1][2] + GAP:
            spans[-1] = piece.file, spans[-1][1], max(end, spans[-1][2])
        else:
            spans.append((piece.file, start, end))
    found: list[Range] = []
    at = 0
    for file, start, end in spans:
        first = start // BLOCK * BLOCK
        size = -(-end // BLOCK) * BLOCK - first
        found.append(Range(file, first, size, end - first, at))
        at += size
    return found
