"""Run the parts one after the other; one that fails or takes too long never stops the others."""

import shutil
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .machine import Machine
from .needs import GIB
from .parts import Part
from .results import Results
from .work import Work

TICK = 0.5  # seconds between two looks
SLOW = 4  # times the limits, on a CPU
LOG = "gpu.log"
AGAIN, GO_ON = 15.0, "--go-on"  # seconds with which a part that has lost its device is begun again, and how


@dataclass
class Driver:
    """What is run, and how far it is.

    Args:
        machine: where.
        results: where everything is kept.
        seconds: for all parts together.
        folder: for what the parts write, which is no result.
        tell: is called with the name of every part when it begins (True) and when it has ended (False).
        data: folder of real text, None where there is none.
    """

    machine: Machine
    results: Results
    seconds: float
    folder: Path
    tell: Callable[[Part, bool], object]
    data: Path | None = None
    _beside: list[Work] = field(default_factory=list)
    _now: list[Work] = field(default_factory=list)

    def run(self, parts: Iterable[Part]) -> None:
        """Run the parts, those that go beside the others first; what is there is published again and again."""
        self._end = time.monotonic() + self.seconds
        before = {number: signal.signal(number, self._stopped) for number in (signal.SIGTERM, signal.SIGHUP)}
        try:
            chosen = [part for part in parts if self._possible(part)]
            for part in chosen:
                if part.beside:
                    self._beside.append(self._begin(part, self._left()))
            waiting = [part for part in chosen if not part.beside]
            while waiting:
                part = waiting.pop(0)
                self._one(part, self._left() - sum(other.least for other in waiting))
            self._wait(self._beside)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._stop_all("stopped with everything")

    def _possible(self, part: Part) -> bool:
        """Return whether a part can be run here; why not is recorded."""
        if not self.machine.holds(part.needs):
            has = f"the card has {self.machine.total / GIB:.0f}"
            return self._leave_out(part, f"needs {part.needs / GIB:.0f} GiB, {has}")
        if part.text and self.data is None:
            return self._leave_out(part, "there is no real text; DATA= names its folder")
        return True

    def _leave_out(self, part: Part, why: str) -> bool:
        self.results.left_out(part, why)
        self.tell(part, False)
        return False

    def _limit(self, part: Part) -> float:
        """Return the seconds after which a part is stopped; a CPU may be slow."""
        return part.limit if self.machine.device == "cuda" else SLOW * part.limit

    def _left(self) -> float:
        return self._end - time.monotonic()

    def _one(self, part: Part, most: float) -> None:
        """Run a part for its own limit or for `most` seconds, but for its least if that is left; or leave it out."""
        seconds = min(self._limit(part), max(most, min(part.least, self._left())))
        if seconds < min(part.least, part.limit) / 2:
            self._leave_out(part, f"no time left ({max(0, seconds):.0f} s)")
            self.results.write()
            return
        end, known = time.monotonic() + seconds, -1
        self._wait([work := self._begin(part, seconds)])
        while work.lost and len(work.rows()) > known and (left := end - time.monotonic()) > AGAIN:
            known = len(work.rows())  # one that comes no further is not begun again
            self._wait([work := self._begin(part, left, GO_ON)])

    def _begin(self, part: Part, most: float, *more: str) -> Work:
        self.tell(part, True)
        seconds = min(self._limit(part), most)
        arguments = (*part.given(self.machine, seconds, self.data), *more)
        work = Work(part, arguments, seconds, self.folder / part.name.replace(" ", "_"))
        self._now.append(work)
        return work

    def _wait(self, some: list[Work]) -> None:
        while waiting := [work for work in some if work in self._now]:
            self._look()
            if any(work in self._now for work in waiting):
                time.sleep(TICK)

    def _look(self) -> None:
        """Take what all parts at work have found; those that have ended are told."""
        for work in list(self._now):
            ended = work.look()
            self.results.take(work)
            if ended:
                self._now.remove(work)
                self._keep_output(work)
        self.results.write()

    def _keep_output(self, work: Work) -> None:
        with suppress(OSError), (self.results.path.parent / LOG).open("ab") as log:  # such as of a full disk
            log.write(f"\n== {work.part.name}: {work.ended}, {work.took:.0f} s\n".encode())
            with work.output.open("rb") as output:
                shutil.copyfileobj(output, log)
        self.tell(work.part, False)

    def _stop_all(self, why: str) -> None:
        for work in self._now:
            work.stop(why)
            self.results.take(work)
            self._keep_output(work)
        self._now = []
        self.results.write()

    def _stopped(self, number, frame) -> None:
        raise SystemExit(128 + number)
