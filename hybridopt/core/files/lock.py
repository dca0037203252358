"""A lock on a folder: one saver, or any number of readers, at a time."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import HybridOptError

try:
    import fcntl
except ImportError:  # Windows has no flock.
    fcntl = None  # type: ignore[assignment]

__all__ = ["locked"]

PAUSE = 0.002  # seconds between two attempts


@contextmanager
def locked(directory: Path, exclusive: bool, wait: float) -> Iterator[bool]:
    """Hold the lock of an existing folder; yield False where the system or the disk has no locks to offer.

    The lock is on the folder itself (flock): it leaves no file behind, ends with its process, and works on a disk that
    is read-only.

    Args:
        directory: the folder.
        exclusive: keep all others out, as savers do; otherwise only those who ask for that.
        wait: seconds at most to wait for others.

    Raises:
        HybridOptError: if others still hold it then.
    """
    if fcntl is None:
        yield False
        return
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise HybridOptError(f"{directory} cannot be opened: {error}") from error
    try:
        yield _acquire(handle, directory, exclusive, wait)
    finally:
        # Closing alone is not enough: a process forked meanwhile has a copy of the handle.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _acquire(handle: int, directory: Path, exclusive: bool, wait: float) -> bool:
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError as error:
            if time.monotonic() >= end:
                raise HybridOptError(
                    f"{directory} is being saved or read by another process or thread (waited {wait:g} s): "
                    "let it finish, or use another folder"
                ) from error
            time.sleep(PAUSE)
        except OSError:
            return False
