"""A part at work: a process group of its own, and the rows that it leaves behind as they come."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..shared.lost_device import LOST
from ..shared.places import ROOT
from .parts import Part

GRACE = 3.0  # seconds between being asked to end and being ended
GONE = 10.0  # seconds in which what was killed ends, unless a driver holds it
PER_ROW = ("environment", "settings")  # what rows share, and how they were asked for: the file says so once
ENDS = {0: "ok", LOST: "lost its device, see the last row"}
LAST = 12  # lines of output that tell why a part failed


@dataclass
class Work:
    """A part that has begun.

    Args:
        part: which.
        arguments: of its command.
        seconds: its time limit.
        folder: for its rows and its output.
        ended: how; "" while it is at work.
    """

    part: Part
    arguments: tuple[str, ...]
    seconds: float
    folder: Path
    ended: str = ""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", self.part.module, *self.arguments, "--out", str(self.folder)]
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
        with self.output.open("w") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=self._environment(path)
            )
        self._began = time.monotonic()
        self._took = 0.0

    @property
    def lost(self) -> bool:
        """Return whether it has ended because its process had lost the device, so that another one can go on."""
        return self._process.poll() == LOST

    @property
    def output(self) -> Path:
        """Return the file of all that it says."""
        return self.folder / "output.txt"

    @property
    def took(self) -> float:
        """Return its seconds so far, or all of them."""
        return self._took or time.monotonic() - self._began

    def look(self) -> bool:
        """Return whether it has ended; it is stopped when its time is over."""
        code = self._process.poll()
        if self.ended:
            return True
        if code is None and self.took < self.seconds:
            return False
        self._took = self.took
        self.ended = f"stopped after {self.seconds:.0f} s" if code is None else ENDS.get(code, f"failed: {code}")
        self.stop()
        return True

    def stop(self, why: str = "") -> None:
        """End every process of it, also those that it has left behind."""
        self.ended = self.ended or why
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                break
            try:
                self._process.wait(GRACE)
            except subprocess.TimeoutExpired:
                continue
        with suppress(subprocess.TimeoutExpired):  # the others are not to wait for it
            self._process.wait(GONE)

    def rows(self) -> list[dict]:
        """Return the rows that are there; a line that was cut off is none."""
        return [row for file in sorted(self.folder.glob("*.jsonl")) for row in rows_of(file)]

    def said(self) -> str:
        """Return the last lines of its output."""
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-LAST:])

    def _environment(self, path: str) -> dict[str, str]:
        more = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        return os.environ | more | dict(self.part.environment)


def rows_of(file: Path) -> list[dict]:
    """Return the rows of one file, without what all of them share."""
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found.append({key: value for key, value in row.items() if key not in PER_ROW})
    return found
