"""What a package compiles when it is first used, in a process that can be ended, before its row begins."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Extension"]


@dataclass(frozen=True)
class Extension:
    """A C++ extension that a package makes by torch.utils.cpp_extension, and torch keeps in a folder.

    Args:
        name: of the extension.
        program: in Python; it loads the extension, and compiles it if none is kept.
    """

    name: str
    program: str

    def why_not(self, seconds: float) -> str | None:
        """Have it compiled, if none is kept; return why that was not possible, None if it was.

        What is stopped leaves a lock that whoever comes next waits for: it is removed, unless it was there before.

        Args:
            seconds: that it may take.
        """
        lock = self._lock()
        held = lock.exists()
        command = [sys.executable, "-c", self.program]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=seconds)
        except BaseException as error:
            _end(process)
            if not held:
                lock.unlink(missing_ok=True)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            why = f", or waiting for {lock}, which was there before: delete it if nobody compiles" if held else ""
            return f"compiling {self.name}{why} took more than {seconds:g} s"
        lines = said.strip().splitlines() or [f"exit {process.returncode}"]
        return f"{self.name} was not compiled: {lines[-1]}"[:500] if process.returncode else None

    def _lock(self) -> Path:
        from torch.utils.cpp_extension import _get_build_directory  # what it waits for has no public name

        return Path(_get_build_directory(self.name, verbose=False)) / "lock"


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and the compilers that it has started."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()
