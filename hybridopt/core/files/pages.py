"""Pages of mapped files, as Linux has them: filled, dropped, and asked whether they were written."""

import ctypes
import errno
import mmap
import os
import sys
from functools import cache
from typing import Any

import numpy as np

__all__ = ["PAGE", "Extent", "drop", "fill", "mapped", "unlock", "written"]

PAGE = mmap.PAGESIZE
Extent = tuple[int, int]  # the first byte of a tensor in its file, and the first after it
WILLNEED, DONTNEED, POPULATE_READ = 3, 4, 22  # of madvise; the last since Linux 5.14
NORESERVE = 0x4000  # of mmap: what is never written needs no memory set aside
PRESENT, SWAPPED, OF_FILE = 1 << 63, 1 << 62, 1 << 61  # of an entry of pagemap
PAGEMAP = "/proc/self/pagemap"


def mapped(file: int) -> tuple[mmap.mmap, bool]:
    """Map a whole file that is open for reading, and return whether it can be written: that copies its pages."""
    flags = mmap.MAP_PRIVATE | NORESERVE
    if copies():
        try:
            return mmap.mmap(file, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE), True
        except OSError as error:
            if error.errno != errno.ENOMEM:  # a system that sets memory aside for whatever could be written
                raise
    return mmap.mmap(file, 0, flags=flags, prot=mmap.PROT_READ), False


def unlock(address: int, size: int) -> None:
    """Let pages of a map be written, which copies them; OSError where the process may not have so much memory."""
    if _libc().mprotect(address, size, mmap.PROT_READ | mmap.PROT_WRITE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def copies() -> bool:
    """Return whether files can be mapped so that writing copies their pages, and it is known which were copied.

    Such maps count as data in whole, so there are none where RLIMIT_DATA limits that: pages are unlocked there.
    """
    import resource  # there is none on Windows

    return resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY and os.access(PAGEMAP, os.R_OK)


def fill(address: int, size: int) -> bool:
    """Read pages of a map into memory; False on systems that cannot be asked to. Raise OSError if they do not come."""
    _advise(address, size, WILLNEED)
    try:
        _advise(address, size, POPULATE_READ)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def drop(address: int, size: int) -> None:
    """Take no memory for pages of a map any more; what was written to them is lost."""
    _advise(address, size, DONTNEED)


def written(address: int, size: int) -> bool:
    """Return whether any page of a private map was written, and so is no page of its file any more."""
    try:
        with open(PAGEMAP, "rb", buffering=0) as file:
            entries = np.frombuffer(os.pread(file.fileno(), -(-size // PAGE) * 8, address // PAGE * 8), np.uint64)
    except OSError:
        return False  # then maps are read-only
    there = (entries & np.uint64(PRESENT | SWAPPED)) != 0
    return bool((there & ((entries & np.uint64(OF_FILE)) == 0)).any())


def _advise(address: int, size: int, what: int) -> None:
    if _libc().madvise(address, size, what):
        number = ctypes.get_errno()
        raise OSError(
            number, os.strerror(number) if number != errno.EFAULT else "the file ends before, or the disk fails"
        )


@cache
def _libc() -> Any:
    library = ctypes.CDLL(None if sys.platform != "win32" else "msvcrt", use_errno=True)
    for call in (library.madvise, library.mprotect):  # which release the GIL
        call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library
