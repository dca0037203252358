"""The CPU computes with weights in the very files that hold them: pages are read ahead, and given back."""

from pathlib import Path

import torch

from ....core.contracts import Piece, PlacedUnit, PlacementBackend, Traffic
from ....core.files.mapping import MappedFile
from ..placement import Placement

__all__ = ["Mapped"]


class Mapped(PlacementBackend):
    """Weights are views of shared read-only maps of their files, so that fetching copies nothing.

    Args:
        device: the CPU.
        traffic: counts what is read.
        options: unused.
    """

    def __init__(self, device: torch.device, traffic: Traffic, options: Placement):
        self._traffic = traffic
        self._files: dict[Path, MappedFile] = {}

    @staticmethod
    def serves(base: str, device: torch.device) -> bool:
        """Serve weights on disk for the CPU."""
        return base == "disk" and device.type == "cpu"

    def adopt(self, unit: PlacedUnit) -> None:
        """Make every tensor of a unit a view of its file."""
        for piece in unit.pieces:
            x = piece.tensor
            piece.point(self._file(piece).tensor(piece.extent, tuple(x.shape), x.dtype))

    def fetch(self, unit: PlacedUnit) -> None:
        """Read the pages of a unit."""
        for piece in unit.pieces:
            file = self._file(piece)
            file.check()
            self._traffic.read += file.fetch(piece.extent)

    def bind(self, unit: PlacedUnit) -> None:
        """Do nothing: the tensors are where they always are."""

    def rest(self, unit: PlacedUnit) -> None:
        """Give the pages of a unit back."""
        for piece in unit.pieces:
            self._file(piece).drop(piece.extent, cached=False)

    def release(self, unit: PlacedUnit) -> None:
        """Do nothing: the tensors stay views of their files."""

    def _file(self, piece: Piece) -> MappedFile:
        assert piece.file is not None  # what no file holds is not placed here
        if piece.file not in self._files:
            self._files[piece.file] = MappedFile(piece.file)
        return self._files[piece.file]
