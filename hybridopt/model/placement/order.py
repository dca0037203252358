"""In which order the units of a model are asked for, learned while it runs."""

__all__ = ["Order"]

Visit = tuple[int, bool]  # unit, and whether in a backward pass


class Order:
    """What was asked for after what, so that the next units are known before they are asked for.

    The next visit is told from the last two: through the layers forwards, backwards, and forwards again, each pair of
    visits has one that follows. Where another one follows, it is what is told from then on. Nothing depends on it but
    when a unit is fetched.
    """

    def __init__(self) -> None:
        self._next: dict[tuple[Visit | None, Visit], Visit] = {}
        self._last: tuple[Visit | None, Visit | None] = (None, None)

    def asked(self, unit: int, backward: bool) -> None:
        """Note that a unit is asked for; again at once, as when it is computed anew, says nothing.

        Args:
            unit: its index.
            backward: is it a backward pass that asks?
        """
        before, last = self._last
        visit = unit, backward
        if visit == last:
            return
        if last is not None:
            self._next[before, last] = visit
        self._last = last, visit

    def expected(self, count: int) -> list[int]:
        """Return the next `count` units, but for the one that was asked for last, as far as they are known."""
        before, last = self._last
        found: list[int] = []
        seen: set[tuple[Visit | None, Visit]] = set()
        while last is not None and len(found) < count and (before, last) in self._next:
            if (before, last) in seen:  # a cycle of fewer units than are wanted
                break
            seen.add((before, last))
            before, last = last, self._next[before, last]
            if last[0] not in found and (self._last[1] is None or last[0] != self._last[1][0]):
                found.append(last[0])
        return found
