"""Axes: where values lie, and which round numbers are written beside them."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ...core.sizes import UNITS
from ..watching.fields import thousands

__all__ = ["Axis", "byte_axis", "shown_number", "step_axis", "value_axis"]

Write = Callable[[float], str]
STEEP = 100  # times the least value that the largest is from which a logarithmic axis shows more


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`.

    Args:
        low: its first value.
        high: its last, above.
        ticks: values that are written beside it.
        write: how.
        log: whether it is logarithmic.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    write: Write
    log: bool = False

    def place(self, value: float) -> float:
        """Return where a value lies, from 0 to 1."""
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return (value - low) / (high - low)


def step_axis(steps: Iterable[float], total: float | None = None) -> Axis:
    """Return the axis of steps, to the last one or to that of the whole run."""
    found = [*steps, *([total] if total else [])] or [0.0, 1.0]
    low, high = min(found), max(found)
    high = high if high > low else low + 1
    return Axis(low, high, _within(_round(low, high, 5, whole=True), low, high), lambda x: f"{x:,.0f}")


def value_axis(values: Iterable[float], log: bool | None = None) -> Axis:
    """Return an axis for values, with some room above and below.

    log: whether it is logarithmic; None: where the values are positive and of very different sizes.
    """
    found = list(values) or [0.0, 1.0]
    low, high = min(found), max(found)
    if log if log is not None else low > 0 and high > STEEP * low:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        step = max(1, math.ceil((last - first) / 5))
        return Axis(10.0**first, 10.0**last, tuple(10.0**i for i in range(first, last + 1, step)), shown_number, True)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    low, high = (0.0 if low >= 0 and low - room < 0 else low - room), high + room
    return Axis(low, high, _within(_round(low, high, 5), low, high), shown_number)


def byte_axis(largest: float) -> Axis:
    """Return an axis of sizes from 0."""
    unit = next((u for u in ("TiB", "GiB", "MiB", "KiB") if largest >= UNITS[u.lower()]), "B")
    size = UNITS[unit.lower()]
    high = max(largest, 1) / size * 1.06
    ticks = _within(_round(0, high, 5), 0, high)
    return Axis(0, high * size, tuple(x * size for x in ticks), lambda x: f"{x / size:.4g} {unit}" if x else "0")


def shown_number(value: float) -> str:
    """Write a number beside an axis."""
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e4:
        return thousands(value) if 1e4 <= abs(value) < 1e9 else f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"


def _round(low: float, high: float, about: int, whole: bool = False) -> list[float]:
    """Return about so many round numbers with equal distances that cover a range."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    step = max(1.0, math.ceil(step)) if whole else step
    first = math.floor(low / step)
    return [round(i * step, 12) for i in range(first, math.ceil(high / step) + 1)]


def _within(ticks: Iterable[float], low: float, high: float) -> tuple[float, ...]:
    return tuple(x for x in ticks if low <= x <= high)
