"""Memory of the host for all tensors of a unit at once: exact, page-locked where a device is to fetch it."""

import mmap
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate

import torch
from torch import Tensor

from ....core.errors import HybridOptError
from ....core.sizes import gib
from ..lanes.lane import Lane

__all__ = ["Arena", "Layout", "whole_pages"]

ALIGNMENT = 256  # bytes: what kernels on GPUs may expect of the beginning of a tensor
DONTFORK = 10  # of Linux' madvise


def whole_pages(size: int) -> int:
    """Return the bytes of the pages in which so many bytes lie."""
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


class Layout:
    """Where tensors lie one after the other, on the host and on the device alike, so that one copy moves them all.

    Args:
        tensors: they keep shape, dtype, and the order of their elements in memory.
    """

    def __init__(self, tensors: Sequence[Tensor]):
        self._forms = [(x.dtype, x.shape, torch.empty_like(x, device="meta").stride()) for x in tensors]
        rounded = [-(-x.nbytes // ALIGNMENT) * ALIGNMENT for x in tensors]
        self.offsets = list(accumulate(rounded, initial=0))[:-1]
        self.ends = [offset + x.nbytes for offset, x in zip(self.offsets, tensors, strict=True)]
        self.nbytes = sum(rounded)

    def views(self, memory: Tensor) -> list[Tensor]:
        """Return the tensors in some bytes, as views of these; the bytes may still be missing."""
        found = []
        for (dtype, shape, strides), start, end in zip(self._forms, self.offsets, self.ends, strict=True):
            found.append(memory[start:end].view(dtype).as_strided(shape, strides, start // dtype.itemsize))
        return found

    def tensors(self, memory: "Arena") -> list[Tensor]:
        """Return the tensors in memory of the host, each with a storage of its own: saved alone, it is small."""
        found = []
        for (dtype, shape, strides), start in zip(self._forms, self.offsets, strict=True):
            if shape.numel() == 0:  # of which there is no buffer
                found.append(torch.empty(shape, dtype=dtype))
                continue
            flat = torch.frombuffer(memory.map, dtype=dtype, count=shape.numel(), offset=start)
            found.append(flat.as_strided(shape, strides))
        return found


class Arena:
    """Bytes of the host, whole pages and no more: torch's own page-locked memory comes in powers of two.

    They are there as long as any tensor of `bytes` or `Layout.tensors` lives.

    Args:
        size: in bytes.
        lane: on which they are to be copied; page-locks them.
        forked: are they there in forked processes as well? What is written after a fork while a device copies from it
            must not be. What is page-locked for a GPU never is.

    Raises:
        HybridOptError: there is no memory left.
    """

    def __init__(self, size: int, lane: Lane, forked: bool = True):
        self.size = whole_pages(size)
        try:
            self.map = _memory(self.size)
        except (OSError, ValueError) as error:
            raise HybridOptError(
                f"placement: the host has no {gib(self.size)} left for weights that rest there ({error}); take "
                "placement='disk', or more resident layers"
            ) from error
        self.bytes = torch.frombuffer(self.map, dtype=torch.uint8)
        self.pinned = lane.pin(self.bytes)
        if not (forked and (lane.forked or not self.pinned)) and sys.platform == "linux":
            self.map.madvise(DONTFORK)
        if self.pinned:
            self.map.unpin = lane.unpin, self.bytes.data_ptr()


class _Memory(mmap.mmap):
    """Mapped memory whose page lock is given up before it is unmapped."""

    unpin: tuple[Callable[[int], None], int] | None = None

    def __del__(self) -> None:
        if self.unpin is not None:
            with suppress(Exception):  # there is nobody to tell
                self.unpin[0](self.unpin[1])


def _memory(size: int) -> _Memory:
    if sys.platform == "win32":  # which has no flags, and copies nothing to other processes
        return _Memory(-1, size)
    return _Memory(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
