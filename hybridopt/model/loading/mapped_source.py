"""Stored tensors read through maps of their files that count as no memory of the process."""

from pathlib import Path

from torch import Tensor

from ...core.files.mapping import Extent, MappedFile, fits, runs
from ...core.files.tensors import extents
from .weight_files import Stored

__all__ = ["MappedSource"]


class MappedSource:
    """Reads stored tensors, and gives the pages of each back when the next one is asked for.

    The library of safetensors maps a whole file anew for every tensor, privately: a limit of memory that is smaller
    than a file could not be kept.
    """

    def __init__(self) -> None:
        self._files: dict[Path, tuple[MappedFile, dict[str, Extent]]] = {}

    def extent(self, entry: Stored) -> Extent:
        """Return the bytes that hold a tensor in its file."""
        return self._file(entry)[1][entry.name]

    def mappable(self, entry: Stored) -> bool:
        """Return whether a tensor can be used where it lies in its file."""
        return fits(self.extent(entry), entry.dtype)

    def read(self, entry: Stored) -> Tensor:
        """Return a tensor as a view of its file, or in memory where it lies at an odd place."""
        file, found = self._file(entry)
        make = file.tensor if self.mappable(entry) else file.copy
        return make(found[entry.name], entry.shape, entry.dtype)

    def drop(self, entry: Stored) -> None:
        """Take no memory for a tensor any more: its values are elsewhere, or are read when they are used."""
        file, found = self._file(entry)
        for run in runs([found[entry.name]]):
            file.drop(run)

    def _file(self, entry: Stored) -> tuple[MappedFile, dict[str, Extent]]:
        if entry.file not in self._files:
            self._files[entry.file] = MappedFile(entry.file), extents(entry.file)
        return self._files[entry.file]
