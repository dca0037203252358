"""Files read past the system's cache, several ranges at a time: that is how fast drives are fast."""

import mmap
import os
import sys
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from ....core.errors import HybridOptError, HybridOptWarning
from .ranges import BLOCK, Range

__all__ = ["DirectFile", "read"]

READERS = 4  # ranges that are read at the same time
CHUNK = 8 << 20  # bytes that are read at once; whole blocks
DIRECT = os.O_DIRECT if sys.platform == "linux" else 0


class DirectFile:
    """A file that is read past the system's cache where its file system can do that, and through it otherwise.

    Args:
        path: of the file.

    Raises:
        HybridOptError: it cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        self.direct = False
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise HybridOptError(f"{path} cannot be read: {error}; restore it, or load the model anew") from error
        if DIRECT:
            self._try_direct()
        self._end = weakref.finalize(self, os.close, self._file)
        if not self.direct:
            warnings.warn(
                f"{path}: this file system cannot be read past the system's cache, which halves the speed of fast "
                "drives and fills the cache; a local ext4, xfs or btrfs can",
                HybridOptWarning,
                stacklevel=2,
            )

    def _try_direct(self) -> None:
        try:
            other = os.open(self.path, os.O_RDONLY | DIRECT)
        except OSError:
            return
        with mmap.mmap(-1, BLOCK) as block:
            try:
                os.preadv(other, [block], 0)
            except OSError:
                os.close(other)
                return
        os.close(self._file)
        self._file, self.direct = other, True

    def close(self) -> None:
        """Give the file back to the system, as the end of this object does."""
        self._end()

    def read(self, start: int, memory: memoryview, least: int) -> None:
        """Read whole blocks.

        Args:
            start: the first byte, the beginning of a block.
            memory: for the bytes, at the beginning of a block of memory.
            least: bytes that must be there.

        Raises:
            HybridOptError: the file ends before.
            OSError: the drive cannot read it.
        """
        done = 0
        while done < least:
            got = os.preadv(self._file, [memory[done:]], start + done)
            if got == 0:
                raise HybridOptError(
                    f"{self.path} ends {least - done} bytes before the weights in use do: it was cut while it was in "
                    "use; restore it, and start again from the last checkpoint"
                )
            done += got if got == len(memory) - done else got // BLOCK * BLOCK or got


def read(files: dict[Path, DirectFile], ranges: list[Range], memory: memoryview) -> None:
    """Read ranges into memory, several parts of them at the same time; raise what went wrong with the first.

    Args:
        files: those that the ranges are of, by path.
        ranges: what is read, and where to.
        memory: that takes it.
    """
    work: list[Callable[[], None]] = []
    for each in ranges:
        for at in range(0, each.size, CHUNK):
            part = memory[each.at + at : each.at + min(at + CHUNK, each.size)]
            work.append(partial(files[each.file].read, each.start + at, part, min(len(part), each.least - at)))
    if len(work) == 1:
        work[0]()
        return
    with ThreadPoolExecutor(min(READERS, len(work)), "hybridopt-reading") as readers:  # none is left for a fork
        for done in [readers.submit(each) for each in work]:
            done.result()
