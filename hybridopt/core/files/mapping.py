"""Whole files mapped read-only and shared: their bytes as tensors that take no memory until they are read."""

import ctypes
import mmap
import os
from pathlib import Path

import torch
from torch import Tensor

from ..errors import HybridOptError

__all__ = ["Extent", "MappedFile"]

PAGE = mmap.PAGESIZE
WILLNEED, DONTNEED, POPULATE_READ = 3, 4, 22  # of Linux' madvise
_libc = ctypes.CDLL(None, use_errno=True)  # calls release the GIL, which those of Python's own mmap do not
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

Extent = tuple[int, int]  # the first byte of a tensor in its file, and the first after it


class MappedFile:
    """A file of weights, mapped for as long as any tensor of it lives; it is never written.

    Args:
        path: of the file.

    Raises:
        HybridOptError: the file cannot be mapped.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = os.open(path, os.O_RDONLY)
            self._mark = self._now()
            self._map = mmap.mmap(self._file, 0, mmap.MAP_SHARED, mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise HybridOptError(f"{path} cannot be mapped into memory: {error}; copy it to a local disk") from error
        self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)

    def tensor(self, extent: Extent, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return the values that lie in some bytes of the file, as a view of it.

        Args:
            extent: the bytes.
            shape: of the tensor.
            dtype: of the tensor; the bytes may lie at any address that torch can read it from.
        """
        return self._bytes[extent[0] : extent[1]].view(dtype).view(shape)

    def check(self) -> None:
        """Raise HybridOptError if the file was written, cut or replaced since it was mapped."""
        try:
            now = self._now()
        except OSError as error:
            raise HybridOptError(f"{self.path} cannot be read any more: {error}") from error
        if now != self._mark:
            raise HybridOptError(
                f"{self.path} was changed while its weights were in use; restore it, and start again from the last "
                "checkpoint"
            )

    def fetch(self, extent: Extent) -> int:
        """Read bytes into memory, and return how many were asked for; raise OSError where the disk cannot."""
        start, size = _pages(extent)
        address = self._bytes.data_ptr() + start
        _libc.madvise(address, size, WILLNEED)
        if _libc.madvise(address, size, POPULATE_READ):
            number = ctypes.get_errno()
            raise OSError(number, f"{os.strerror(number)}: bytes {extent[0]} to {extent[1]} of {self.path}")
        return extent[1] - extent[0]

    def drop(self, extent: Extent, cached: bool = True) -> None:
        """Take no memory for some bytes any more.

        Args:
            extent: the bytes.
            cached: may the system keep them for other readers?
        """
        start, size = _pages(extent)
        _libc.madvise(self._bytes.data_ptr() + start, size, DONTNEED)
        if not cached:
            os.posix_fadvise(self._file, start, size, os.POSIX_FADV_DONTNEED)

    def _now(self) -> tuple[int, int]:
        state = os.fstat(self._file)
        return state.st_size, state.st_mtime_ns


def _pages(extent: Extent) -> tuple[int, int]:
    """Return where the pages that hold some bytes begin, and how long they are."""
    start = extent[0] // PAGE * PAGE
    return start, -(-extent[1] // PAGE) * PAGE - start
