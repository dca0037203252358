"""What a log says of one number, step by step: with gaps, smoothed, and thinned out without losing its extremes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MOST", "Series", "series", "smoothed", "thinned"]

MOST = 2000  # points of a curve; screens have no more columns
SMOOTH = 30  # a smoothed curve has means of this part of all points


@dataclass(frozen=True)
class Series:
    """Points of a curve.

    Args:
        name: what it is of.
        xs: steps, rising.
        ys: values; None where they were infinite or no number.
    """

    name: str
    xs: tuple[float, ...]
    ys: tuple[float | None, ...]

    def __len__(self) -> int:
        return len(self.xs)

    @property
    def finite(self) -> list[float]:
        """Return the values that are numbers."""
        return [y for y in self.ys if y is not None]

    @property
    def broken(self) -> list[float]:
        """Return the steps whose value is none."""
        return [x for x, y in zip(self.xs, self.ys, strict=True) if y is None]

    def runs(self) -> Iterable[list[tuple[float, float]]]:
        """Yield the points between gaps."""
        run: list[tuple[float, float]] = []
        for x, y in zip(self.xs, self.ys, strict=True):
            if y is not None:
                run.append((x, y))
            elif run:
                yield run
                run = []
        if run:
            yield run


def series(records: Iterable[Mapping[str, Any]], key: str, name: str | None = None) -> Series:
    """Return what records say of a number.

    Args:
        records: of log.jsonl, in order.
        key: of the number.
        name: of the series; None: the key.
    """
    points = [(r["step"], _finite(r[key])) for r in records if key in r and _finite(r.get("step")) is not None]
    return Series(name or key, tuple(x for x, _ in points), tuple(y for _, y in points))


def smoothed(raw: Series, name: str = "smoothed") -> Series:
    """Return the mean of a series around each point: a sixtieth of all points before it, and as many after it.

    Near the ends there are fewer on one side. A gap stays a gap, and is left out of the means beside it.
    """
    sums, counts = [0.0], [0]
    for y in raw.ys:
        sums.append(sums[-1] + (y or 0.0))
        counts.append(counts[-1] + (y is not None))
    reach = len(raw) // (2 * SMOOTH)
    found: list[float | None] = []
    for i, y in enumerate(raw.ys):
        a, b = max(0, i - reach), min(len(raw), i + reach + 1)
        found.append(None if y is None else (sums[b] - sums[a]) / (counts[b] - counts[a]))
    return Series(name, raw.xs, tuple(found))


def thinned(raw: Series, most: int = MOST) -> Series:
    """Return at most `most` points of a series: the first, the last, and of each part the least and the largest.

    Steps without a number stay, one of each part.
    """
    if len(raw) <= most:
        return raw
    parts = (most - 2) // 3
    edges = [round(i * len(raw) / parts) for i in range(parts + 1)]
    chosen = {0, len(raw) - 1}
    for a, b in zip(edges, edges[1:], strict=False):
        chosen |= _extremes(raw.ys, range(a, b))
    order = sorted(chosen)
    return Series(raw.name, tuple(raw.xs[i] for i in order), tuple(raw.ys[i] for i in order))


def _extremes(ys: Sequence[float | None], part: range) -> set[int]:
    known = [(y, i) for i in part if (y := ys[i]) is not None]
    broken = [i for i in part if ys[i] is None][:1]
    return {*broken, *({min(known)[1], max(known)[1]} if known else ())}


def _finite(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if number and math.isfinite(value) else None
