"""Windows that go on: all state belongs to the window that its parameter is in, as at the last look."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from .resolved import Resolved

__all__ = ["UnchangedWindows"]

_window = itemgetter("window")


class UnchangedWindows:
    """What was found when no window had ended: asked in every step, without a look at every parameter."""

    def __init__(self) -> None:
        self._known: tuple[Sequence[Resolved], Any] | None = None

    def hold(self, everything: Sequence[Resolved], states: Mapping) -> bool:
        """Return whether no state has come, gone, or changed its window since `learn`.

        Args:
            everything: all parameters; the very list that `learn` was given, if they are trained as they were then.
            states: of the optimizer, by parameter.
        """
        return self._known is not None and self._known[0] is everything and self._known[1] == _windows(states)

    def learn(self, everything: Sequence[Resolved], states: Mapping) -> None:
        """Note that all state belongs to the windows that parameters are in.

        Args:
            everything: all parameters.
            states: of the optimizer, by parameter.
        """
        found = _windows(states)
        self._known = None if found is None else (everything, found)


def _windows(states: Mapping) -> tuple[list[int], list[int]] | None:
    """Return whose states there are, by identity, and of which windows; None where one belongs to none."""
    try:
        return list(map(id, states)), list(map(_window, states.values()))
    except KeyError:
        return None
