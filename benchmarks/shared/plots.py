"""Plots against bytes on a log axis, on which 0 bytes have a place."""

import math
from dataclasses import dataclass
from pathlib import Path

from .markdown import human

MARKERS = "osD^vP<>X*p"


@dataclass(frozen=True)
class Point:
    """One method in a plot: x in bytes (0 allowed), y with its standard deviation."""

    label: str
    x: int
    y: float
    error: float


def pyplot():
    """Return matplotlib's pyplot, drawing into files alone; ImportError where matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def plot(points: list[Point], path: Path, ylabel: str, xlabel: str = "bytes of optimizer state, log scale") -> None:
    """Draw points with error bars; a size of 0 stands left of a break in the axis, under a tick named 0.

    Args:
        points: one a method.
        path: the image.
        ylabel: what the y axis shows.
        xlabel: what the x axis shows.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(9, 5))
    axes.set_xscale("log")
    zero = zero_place(points)
    places = [point.x or zero for point in points]
    for index, (point, x) in enumerate(zip(points, places, strict=True)):
        marker = MARKERS[index % len(MARKERS)]
        axes.errorbar(x, point.y, point.error, fmt=marker, capsize=4, alpha=0.85, label=point.label)
    bytes_axis(axes, places, zero if 0 in [point.x for point in points] else None)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def zero_place(points: list[Point]) -> float:
    """Return where 0 bytes are drawn on the log axis: a decade left of the smallest real size."""
    return 10 ** (math.floor(math.log10(min((point.x for point in points if point.x), default=10))) - 1)


def bytes_axis(axes, places: list[float], zero: float | None) -> None:
    """Name the decades of a log axis in bytes.

    Args:
        axes: matplotlib's.
        places: x of all points.
        zero: where 0 bytes are drawn, left of a break; None where no method takes 0 bytes.
    """
    low, high = math.floor(math.log10(min(places))), math.ceil(math.log10(max(places)))
    decades = [10.0**power for power in range(low, high + 1)]
    names = ["0" if tick == zero else human(int(tick)).replace(".0", "") for tick in decades]
    axes.set_xticks(decades, names)
    axes.minorticks_off()
    axes.set_xlim(decades[0] / 2, max(places) * 2)
    if zero:
        axes.axvline(zero * 3, color="grey", linestyle=":", linewidth=1)
