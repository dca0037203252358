"""Whole files mapped into memory: their bytes as tensors that take no memory until they are read."""

import ctypes
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import HybridOptError
from . import pages
from .pages import PAGE, Extent

__all__ = ["Extent", "MappedFile", "fits", "runs"]

PIECE = 4 << 20  # bytes that are read at a time where the system cannot fill pages by itself
AGAIN = "restore it, and start again from the last checkpoint"


def runs(extents: Iterable[Extent]) -> list[Extent]:
    """Return the whole pages that hold some bytes of a file, as few stretches without gaps: what a fetch reads."""
    found: list[Extent] = []
    for low, high in sorted((low // PAGE * PAGE, -(-high // PAGE) * PAGE) for low, high in extents if high > low):
        if found and low <= found[-1][1]:
            found[-1] = found[-1][0], max(high, found[-1][1])
        else:
            found.append((low, high))
    return found


def fits(extent: Extent, dtype: torch.dtype) -> bool:
    """Return whether torch can use bytes where they lie in their file: at a multiple of the size of an item."""
    return extent[0] % dtype.itemsize == 0


class MappedFile:
    """A file of weights, mapped for as long as any tensor of it lives; it is never written.

    What is written to a tensor of it stays in the memory of this process, is told by `written`, and is lost when its
    pages are dropped. Where the memory of the process is limited (RLIMIT_DATA), or the system does not tell which
    pages were written, the map is not `writable`, and a write ends the process (SIGSEGV), but for pages that were
    unlocked.

    Args:
        path: of the file.

    Raises:
        HybridOptError: the file cannot be mapped, or the system is not Linux.
    """

    def __init__(self, path: Path):
        if sys.platform != "linux":
            raise HybridOptError(
                f"{path} cannot be used where it lies on {sys.platform}: weights are read from disk while they are "
                "used on Linux alone; leave placement out, or take placement='host'"
            )
        self.path = path
        try:
            with open(path, "rb", buffering=0) as file:
                self._map, self.writable = pages.mapped(file.fileno())
                self._file = os.dup(file.fileno())
            self._mark = self._now()
        except (OSError, ValueError) as error:
            raise HybridOptError(f"{path} cannot be mapped into memory: {error}; copy it to a local disk") from error
        self.size = len(self._map)
        held: Any = (ctypes.c_uint8 * self.size).from_address(np.frombuffer(self._map, np.uint8).ctypes.data)
        held.owner = (self._map, _Handle(self._file))  # as long as torch has the memory
        self._bytes = torch.frombuffer(held, dtype=torch.uint8)
        self._start = self._bytes.data_ptr()

    def tensor(self, extent: Extent, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return the values that lie in some bytes of the file, in its memory.

        Each tensor counts its own writes: what is written to one is none to the others, which autograd may have saved.

        Args:
            extent: the bytes; `fits` says whether they can be viewed.
            shape: of the tensor.
            dtype: of the tensor.

        Raises:
            HybridOptError: the file is too short, or the bytes cannot be viewed.
        """
        if extent[1] > self.size:
            raise HybridOptError(f"{self.path} has {self.size} bytes, and its header speaks of {extent[1]}; {AGAIN}")
        if not fits(extent, dtype):
            raise HybridOptError(
                f"{self.path}: a tensor of {dtype} begins at byte {extent[0]}, which is no multiple of its item size"
            )
        return self._bytes[extent[0] : extent[1]].view(dtype).view(shape).data

    def copy(self, extent: Extent, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return the values that lie in some bytes at any place of the file, in memory of their own.

        Args:
            extent: the bytes.
            shape: of the tensor.
            dtype: of the tensor.
        """
        return self.tensor(extent, (extent[1] - extent[0],), torch.uint8).clone().view(dtype).view(shape)

    def check(self) -> None:
        """Raise HybridOptError if the file was written, cut, replaced or taken away since it was mapped."""
        try:
            now, there = self._now(), os.stat(self.path)
        except OSError as error:
            raise HybridOptError(
                f"{self.path} is not there any more ({error}) while its weights are in use; {AGAIN}"
            ) from error
        if now != self._mark or (there.st_dev, there.st_ino) != now[2:]:
            raise HybridOptError(f"{self.path} was changed while its weights were in use; {AGAIN}")

    def fetch(self, run: Extent) -> None:
        """Read whole pages into memory.

        Args:
            run: where they begin and end, as `runs` says.

        Raises:
            HybridOptError: the disk cannot.
        """
        start, size = run[0], run[1] - run[0]
        try:
            if not pages.fill(self._start + start, size):
                self._touch(run)
        except OSError as error:
            raise HybridOptError(
                f"bytes {start} to {run[1]} of {self.path} cannot be read ({error}); check the disk, and start again "
                "from the last checkpoint"
            ) from error

    def drop(self, run: Extent, cached: bool = True) -> None:
        """Take no memory for whole pages any more.

        Args:
            run: where they begin and end.
            cached: may the system keep them, for who reads them next?
        """
        pages.drop(self._start + run[0], run[1] - run[0])
        if not cached:
            with suppress(OSError):  # an advice, which some file systems do not take
                os.posix_fadvise(self._file, run[0], run[1] - run[0], os.POSIX_FADV_DONTNEED)

    def unlock(self, run: Extent) -> None:
        """Let whole pages be written to; they count as memory of the process from now on.

        Args:
            run: where they begin and end.

        Raises:
            HybridOptError: the process may not have so much memory.
        """
        if self.writable:
            return
        try:
            pages.unlock(self._start + run[0], run[1] - run[0])
        except OSError as error:
            raise HybridOptError(f"{run[1] - run[0]} bytes of {self.path} cannot be made writable: {error}") from error

    def written(self, run: Extent) -> bool:
        """Return whether anything was written to whole pages in memory since they were last dropped."""
        return pages.written(self._start + run[0], run[1] - run[0])

    def _touch(self, run: Extent) -> None:
        """Read pages on systems that cannot fill them: into the system's cache, where errors are told, then here."""
        place, end = run[0], min(run[1], self.size)
        scratch = bytearray(min(PIECE, end - place))
        while place < end:
            count = os.preadv(self._file, [memoryview(scratch)[: end - place]], place)
            if count == 0:
                raise OSError(f"it ends at byte {place}")
            place += count
        self._bytes[run[0] : end : PAGE].sum()

    def _now(self) -> tuple[int, int, int, int]:
        state = os.fstat(self._file)
        return state.st_size, state.st_mtime_ns, state.st_dev, state.st_ino


class _Handle:
    """Closes a file once nothing needs it any more."""

    def __init__(self, number: int):
        self._number = number

    def __del__(self) -> None:
        os.close(self._number)
