"""In which order the units of a model are asked for, learned while it runs, and what follows from it.

Units that are used soonest are fetched, and those that are used last make room for them (L. A. Belady, A study of
replacement algorithms for a virtual-storage computer, 1966), but never one that is used before what is fetched for it
("do no harm": P. Cao et al., A study of integrated prefetching and caching strategies, 1995).
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

__all__ = ["BACKWARD", "EVALUATION", "FORWARD", "Order"]

EVALUATION, FORWARD, BACKWARD = range(3)  # what a unit is asked for: a forward pass, one in training, a backward pass

Visit = tuple[int, int]  # unit, and what it was asked for
Two = tuple[Visit | None, Visit]
Fetch = tuple[int, int | None]  # a unit, and what is dropped for it


class Order:
    """What was asked for after what, so that the next units are known before they are asked for.

    The next visit is told from the last two: through the layers forwards, backwards, and forwards again, each pair of
    visits has one that follows. Where another one follows, it is what is told from then on; for a pair that is new,
    the next layer is. Nothing depends on it but when a unit is fetched and dropped.

    Args:
        count: how many units there are.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._most = 8 * count + 64  # pairs that are kept: layers left out at random make ever new ones
        self._next: dict[Two, Visit] = {}  # least recently seen first
        self._last: tuple[Visit | None, Visit | None] = (None, None)

    @property
    def state(self) -> tuple[Any, Any]:
        """Return all that is known, to be compared."""
        return self._last, frozenset(self._next.items())

    def asked(self, unit: int, phase: int) -> None:
        """Note that a unit is asked for; again at once, as when it is computed anew, says nothing.

        Args:
            unit: its index.
            phase: EVALUATION, FORWARD or BACKWARD.
        """
        before, last = self._last
        visit = unit, phase
        if visit == last:
            return
        if last is not None:
            pair = before, last
            self._next.pop(pair, None)
            self._next[pair] = visit
            if len(self._next) > self._most:
                del self._next[next(iter(self._next))]
        self._last = last, visit

    def expected(self) -> Iterator[int]:
        """Yield the units of the next visits, as far as they are told: some periods of what is repeated at most."""
        before, last = self._last
        for _ in range(4 * self._count + 8):
            if last is None:
                return
            following = self._next.get((before, last)) or self._guess(last)
            before, last = last, following
            if last is not None:
                yield last[0]

    def ahead(self, near: Sequence[int], free: Collection[int], slots: int, count: int) -> Fetch | None:
        """Return the unit to fetch next and the one to drop for it (None: there is room); None: not now.

        What makes room is what would if the unit were fetched at the last moment; it does so as soon as it may. So no
        fetch more is made than without any in advance.

        Args:
            near: units that are near or on their way, the least recently begun first.
            free: those of them that may be dropped now.
            slots: how many may be near.
            count: a unit that is among the next `count` ones is fetched whatever has to go for it.
        """
        path, soon = self.expected(), dict.fromkeys(self._current())
        wanted = next((unit for unit in path if unit not in near or soon.update({unit: None})), None)
        if wanted is None or len(near) < slots:
            return None if wanted is None else (wanted, None)
        last = _farthest(list(near), path)
        now = [unit for unit in near if unit in free and unit not in soon]
        if last in now:
            return wanted, last
        return (wanted, self.last_used(now)) if now and len(soon) <= count else None

    def last_used(self, units: Sequence[int]) -> int:
        """Return which of some units is asked for last, of those of which that is unknown the first."""
        return _farthest(list(units), self.expected())

    def _current(self) -> list[int]:
        return [] if self._last[1] is None else [self._last[1][0]]

    def _guess(self, last: Visit) -> Visit | None:
        """Return what follows in a model whose layers are a plain sequence."""
        unit, phase = last
        unit += -1 if phase == BACKWARD else 1
        if 0 <= unit < self._count:
            return unit, phase
        if phase == FORWARD:
            return self._count - 1, BACKWARD
        return 0, FORWARD if phase == BACKWARD else EVALUATION


def _farthest(units: list[int], path: Iterator[int]) -> int:
    for unit in path:
        if len(units) == 1:
            break
        if unit in units:
            units.remove(unit)
    return units[0]
