"""What the disk gives by itself."""

import mmap
import os
import time
from pathlib import Path

PIECE = 16 << 20  # bytes


def speed(path: Path, most: int = 1 << 30) -> dict:
    """Return the bytes a second that a file is read with, past the system's cache where the file system allows it.

    Args:
        path: of the file.
        most: bytes that are read of it.
    """
    buffer = mmap.mmap(-1, PIECE)  # aligned to pages
    direct = True
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        handle, direct = os.open(path, os.O_RDONLY), False
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        began, size = time.perf_counter(), 0
        while size < most and (count := os.preadv(handle, [buffer], size)) > 0:
            size += count
            if count % mmap.PAGESIZE:
                break
        return {"bytes_per_second": size / (time.perf_counter() - began), "direct": direct}
    finally:
        os.close(handle)
