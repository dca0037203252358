"""Compiled kernels on disk: found again by everything that they depend on, and loaded only if they were made here."""

import ctypes
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["KernelFolder", "folder", "key_of"]

LIBRARY, RECORD, SOURCE = "kernel.so", "record.json", "kernel.cpp"
LARGEST = 1 << 26  # bytes of a library that is read
LEFT = 3600.0  # seconds after which what somebody began to make counts as left behind
BEGUN = ".begun-"


def folder() -> Path:
    """Return the folder of kernels in the user's cache: HYBRIDOPT_KERNELS, else XDG_CACHE_HOME, else ~/.cache."""
    own = os.environ.get("HYBRIDOPT_KERNELS")
    if own:
        return Path(own).expanduser().absolute()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache.absolute() / "hybridopt" / "kernels"


def key_of(inputs: dict[str, str]) -> str:
    """Return the name of a kernel: a digest of all that it depends on."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


class KernelFolder:
    """A folder of kernels that nobody else can write to.

    Args:
        path: of the folder, which is made.

    Raises:
        OSError: it cannot be made or written, or others could put something into it.
    """

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _own(path, stat.S_ISDIR):
            raise PermissionError(f"{path} belongs to another user, or others may write to it")
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(f"{path} cannot be written")

    def load(self, inputs: dict[str, str]) -> ctypes.CDLL | None:
        """Return the library that was made of these inputs; None where there is none, or it is not what was made."""
        with suppress(OSError):
            return self.made(inputs)
        return None

    def made(self, inputs: dict[str, str]) -> ctypes.CDLL:
        """Return the library that was made of these inputs; OSError says why that is not possible."""
        at = self.path / key_of(inputs)
        try:
            record = json.loads(_read(at / RECORD))
            digest = hashlib.sha256(_read(at / LIBRARY)).hexdigest()
            sound = record["inputs"] == inputs and record["digest"] == digest
        except (ValueError, TypeError, KeyError):
            sound = False
        if not sound:
            raise OSError(f"{at} is not what was made")
        return ctypes.CDLL(str(at / LIBRARY))

    def begin(self) -> Path:
        """Return a new folder to make a kernel in; those that others have left behind are removed."""
        for old in self.path.glob(BEGUN + "*"):
            with suppress(OSError):
                if time.time() - old.stat().st_mtime > LEFT:
                    shutil.rmtree(old, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=BEGUN, dir=self.path))

    def put(self, begun: Path, inputs: dict[str, str]) -> None:
        """Take in what was made in a folder of `begin`: all of it at once, or nothing.

        Args:
            begun: the folder, with a library.
            inputs: all that the library depends on.
        """
        os.chmod(begun / LIBRARY, 0o700)  # compilers leave it to the umask, which may be open to a group
        digest = hashlib.sha256(_read(begun / LIBRARY)).hexdigest()
        with open(os.open(begun / RECORD, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({"inputs": inputs, "digest": digest}, file)
            file.flush()
            os.fsync(file.fileno())
        at = self.path / key_of(inputs)
        try:
            os.rename(begun, at)
        except OSError:  # there is one: of another process, which was faster, or one that `load` does not take
            if self.load(inputs) is None:
                shutil.rmtree(at, ignore_errors=True)
                with suppress(OSError):  # a third one was faster: what is there counts
                    os.rename(begun, at)


def _own(path: Path, kind) -> bool:
    """Return whether a path is of a kind, ours, and not to be written by others."""
    found = os.lstat(path)
    if sys.platform == "win32":  # where modes say nothing of other users
        return kind(found.st_mode)
    return kind(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read(path: Path) -> bytes:
    if not _own(path.parent, stat.S_ISDIR) or not _own(path, stat.S_ISREG):
        raise PermissionError(f"{path} belongs to another user, or others may write to it")
    with open(path, "rb") as file:
        return file.read(LARGEST)
