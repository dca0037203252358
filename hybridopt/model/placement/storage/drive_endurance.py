"""How much training may write to a drive, which endures only so much in its life."""

import time
from collections import deque
from collections.abc import Callable

from ....core.errors import HybridOptError
from ....core.sizes import human, parse_size
from ..placement import Placement

__all__ = ["DAILY", "WRITTEN", "Endurance", "daily"]

DAY = 24 * 60 * 60  # seconds
SPAN = DAY // 96  # seconds whose bytes are added up: what is kept does not grow with the steps
WRITTEN, YEARS = 600 * 10**12, 5  # bytes that a usual drive of 1 TB is warranted to endure, in so many years
DAILY = WRITTEN // (YEARS * 365)  # 329 GB


def daily(placement: Placement) -> int:
    """Return the bytes that training may write to disk in a day."""
    return DAILY if placement.allow_writes is None else parse_size(placement.allow_writes, "allow_writes")


class Endurance:
    """What this process has written within the last 24 hours, against what it may.

    Args:
        placement: says how much that is.
        clock: tells the seconds since some time.
    """

    def __init__(self, placement: Placement, clock: Callable[[], float] = time.monotonic):
        self._allowed, self._given, self._clock = daily(placement), placement.allow_writes, clock
        self._spans: deque[tuple[int, int]] = deque()  # number of the span, and bytes

    @property
    def written(self) -> int:
        """Return the bytes of the last 24 hours."""
        oldest = self._span() - DAY // SPAN
        while self._spans and self._spans[0][0] <= oldest:
            self._spans.popleft()
        return sum(size for _, size in self._spans)

    def spend(self, size: int) -> None:
        """Note that so many bytes are about to be written.

        Raises:
            HybridOptError: they are too many; then they must not be written.
        """
        so_far = self.written
        if so_far + size > self._allowed:
            given = "" if self._given is None else f", and allow_writes={self._given!r} allows no more"
            usual = f"a usual drive of 1 TB endures {human(DAILY)} a day over {YEARS} years"
            raise HybridOptError(
                f"training has written {human(so_far)} to disk within a day, and would write {human(size)} more: "
                f"{usual}{given}. Write more rarely (write_every=), or allow more, such as "
                f"allow_writes='{-(-2 * (so_far + size) // 10**9)}GB'",
                "placement",
            )
        now = self._span()
        last = self._spans.pop()[1] if self._spans and self._spans[-1][0] == now else 0
        self._spans.append((now, last + size))

    def _span(self) -> int:
        return int(self._clock() // SPAN)
