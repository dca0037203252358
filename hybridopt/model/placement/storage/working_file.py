"""A file of trained weights, which is gone with the process that made it."""

import os
import shutil
import tempfile
import weakref
from pathlib import Path

import torch
from torch import Tensor

from ....core.errors import HybridOptError
from ....core.files.mapping import Extent, MappedFile
from ....core.files.pages import PAGE

__all__ = ["WorkingFile", "spaced"]


def spaced(size: int) -> int:
    """Return how many bytes a tensor of `size` bytes takes, as each begins with a page of its own."""
    return -(-size // PAGE) * PAGE


class WorkingFile(MappedFile):
    """Where trained weights rest: a file without a name, so that no end of the process leaves it behind.

    Whoever opens `path` in this process reads it.

    Args:
        folder: on the drive that it takes space of; is made if it is not there.
        size: bytes that it can hold.

    Raises:
        HybridOptError: there is no space for it, or no such file can be made there.
    """

    def __init__(self, folder: Path, size: int):
        self._used, self._size = 0, size
        try:
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
            if free < size:
                raise HybridOptError(
                    f"{folder} has {free} bytes left, and trained weights take up to {size}: free space, or give a "
                    "folder on another drive as Placement(cache=...)"
                )
            self._own = tempfile.TemporaryFile(dir=folder, buffering=0)
            weakref.finalize(self, self._own.close).atexit = False  # a helper may write until the very end
            self._own.truncate(size)
        except OSError as error:
            raise HybridOptError(
                f"weights cannot be written to {folder}: {error}; give another folder as Placement(cache=...)"
            ) from error
        super().__init__(Path(f"/proc/self/fd/{self._own.fileno()}"))

    def reserve(self, size: int) -> Extent:
        """Return bytes that are of nobody yet."""
        start = self._used
        self._used += spaced(size)
        assert self._used <= self._size
        return start, start + size

    def write(self, extent: Extent, values: Tensor) -> None:
        """Write the values of a tensor.

        Args:
            extent: the bytes that it takes.
            values: on the CPU.

        Raises:
            HybridOptError: the drive does not take them.
        """
        left, at = values.contiguous().view(-1).view(torch.uint8).numpy().data, extent[0]
        try:
            while left:
                count = os.pwrite(self._own.fileno(), left, at)
                left, at = left[count:], at + count
        except OSError as error:
            raise HybridOptError(f"trained weights could not be written to {self.path.resolve()}: {error}") from error

    def check(self) -> None:
        """Do nothing: nobody else can write to it."""
