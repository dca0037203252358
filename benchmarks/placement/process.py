"""What the system says of this process: memory, and bytes read."""

import threading
from pathlib import Path

from hybridopt.core.system_files import words

STATUS, COUNTS = Path("/proc/self/status"), Path("/proc/self/io")
KINDS = ("RssAnon:", "RssFile:", "RssShmem:")
EVERY = 0.005  # seconds


def memory() -> int:
    """Return the bytes of this process that are in memory: its own, those of files, and shared ones."""
    return sum(1024 * int(words(STATUS, kind)[0]) for kind in KINDS)


def private() -> int:
    """Return the bytes of private memory that were asked for, which RLIMIT_DATA limits."""
    return 1024 * int(words(STATUS, "VmData:")[0])


def read() -> int:
    """Return the bytes that this process has had read from disks."""
    return int(words(COUNTS, "read_bytes:")[0])


class Watch:
    """The most memory within a `with` block, looked at every few milliseconds: `most` afterwards."""

    def __enter__(self) -> "Watch":
        self.most, self._over = memory(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(EVERY):
            self.most = max(self.most, memory())
