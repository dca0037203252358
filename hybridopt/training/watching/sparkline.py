"""A curve in one line of text."""

import math
from collections.abc import Sequence

__all__ = ["ASCII", "BARS", "Curve", "sparkline"]

BARS = "▁▂▃▄▅▆▇█"
ASCII = "_.,-=+*#"  # for terminals that show nothing else
BROKEN = "!"  # nothing that is a number


def sparkline(values: Sequence[float], width: int, top: float, bottom: float = 0.0, bars: str = BARS) -> str:
    """Draw values as a line of bars, each the mean of its share of the values.

    Args:
        values: in order; none gives an empty line. A share with one that is infinite or no number is drawn as "!".
        width: number of bars, at most.
        top: value of the highest bar; larger values are drawn as high.
        bottom: value of the lowest bar, below `top`; smaller values are drawn as low.
        bars: the characters, from the lowest to the highest.
    """
    width = min(width, len(values))
    edges = [round(i * len(values) / width) for i in range(width + 1)] if width else []
    means = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    return "".join(_bar((mean - bottom) / (top - bottom), bars) for mean in means)


class Curve:
    """Values of a run of any length, as at most 512 means of equally many of them each."""

    MOST = 512

    def __init__(self) -> None:
        self._means: list[float] = []
        self._part: list[float] = []  # of the next mean
        self._each = 1

    def add(self, value: float) -> None:
        """Add the next value; infinite ones and those that are no number may be among them."""
        self._part.append(value)
        if len(self._part) < self._each:
            return
        self._means.append(sum(self._part) / self._each)
        self._part.clear()
        if len(self._means) == self.MOST:
            self._means = [(a + b) / 2 for a, b in zip(self._means[::2], self._means[1::2], strict=True)]
            self._each *= 2

    def drawn(self, width: int, bars: str = BARS) -> str:
        """Return the curve between its own lowest and highest value; "" where fewer than two are known.

        width: number of bars, at most. bars: the characters, from the lowest to the highest.
        """
        finite = [mean for mean in self._means if math.isfinite(mean)]
        if len(self._means) < 2 or not finite:
            return ""
        low, high = min(finite), max(finite)
        return sparkline(self._means, width, high if high > low else low + 1, low, bars)


def _bar(share: float, bars: str) -> str:
    if not math.isfinite(share):
        return BROKEN
    return bars[min(len(bars) - 1, int(len(bars) * max(0.0, share)))]
