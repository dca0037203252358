"""How fast the disk of a folder is written and read."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from time import perf_counter
from typing import IO

from ....core.sizes import human
from ..examine import Check
from ..finding import OK, WARN, Finding
from ..machine import Machine
from ..timing import speed

__all__ = ["CHECK", "written_and_read"]

CHUNK, MOST, LEAST = 8 << 20, 512 << 20, 64 << 20  # bytes: at a time, of the file, and left free
SECONDS = 1.0  # of writing, before what waits is sent to the disk


def _disk(machine: Machine) -> Iterator[Finding]:
    yield written_and_read(machine.folder, MOST)


def written_and_read(folder: Path, most: int) -> Finding:
    """Return the line about a file that is written to a folder, read back and removed.

    Args:
        folder: where.
        most: bytes of the file.
    """
    most = min(most, shutil.disk_usage(folder).free - LEAST) // CHUNK * CHUNK
    if most <= 0:
        return Finding("disk", WARN, f"{folder} is full", "make room, or name another folder by --folder")
    chunk = os.urandom(CHUNK)  # which disks cannot compress
    with TemporaryFile(dir=folder, buffering=0) as file:
        start = perf_counter()
        size = _write(file, chunk, most)
        os.fsync(file.fileno())
        written = size / (perf_counter() - start)
        dropped = _forget(file)
        start = perf_counter()
        _read(file, bytearray(CHUNK))
        read = size / (perf_counter() - start)
    note = "" if dropped else " (perhaps from memory: this system keeps what was written)"
    text = f"{folder}: {speed(written)} written, {speed(read)} read{note}, by {human(size)}"
    numbers = {"write_bytes_per_second": written, "read_bytes_per_second": read, "bytes": float(size)}
    return Finding("disk", OK, text, numbers=numbers, speeds={"disk": read} if dropped else {})


def _write(file: IO[bytes], chunk: bytes, most: int) -> int:
    """Write chunks until there are enough or the time is over; return the bytes."""
    size, end = 0, perf_counter() + SECONDS
    while size < most and (not size or perf_counter() < end):
        size += file.write(chunk)
    return size


def _read(file: IO[bytes], room: bytearray) -> None:
    file.seek(0)
    while file.readinto(room):  # type: ignore[attr-defined]  # a raw file has it
        pass


def _forget(file: IO[bytes]) -> bool:
    """Ask the system to keep nothing of the file in memory; return whether it can be asked."""
    try:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except (AttributeError, OSError):
        return False
    return True


CHECK = Check("disk", "bandwidth", 2, _disk)
