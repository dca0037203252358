"""Plots against bytes on a log axis, on which 0 bytes have a place, with the names of methods at their points."""

import math
from dataclasses import dataclass
from pathlib import Path

from .label_places import Box, placed
from .markdown import human

MARKERS = "osD^vP<>X*p"
SIZE = 7.0  # of the letters of names, in points
DONE, OPEN, EDGE = "tab:blue", "white", "0.55"


@dataclass(frozen=True)
class Point:
    """One method in a plot: x in bytes (0 allowed), y with its standard deviation. open: it is not finished."""

    label: str
    x: int
    y: float
    error: float
    open: bool = False


def frontier(points: list[Point]) -> list[Point]:
    """Return the points that no other one beats in bytes without losing in y, which is to be low, by bytes."""
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, point.y)):
        if not found or point.y < found[-1].y:
            found.append(point)
    return found


def pyplot():
    """Return matplotlib's pyplot, drawing into files alone; ImportError where matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def plot(points: list[Point], path: Path, ylabel: str, xlabel: str = "bytes of optimizer state, log scale") -> None:
    """Draw points with error bars, names beside them, and the frontier: what no method with as few bytes is below.

    A size of 0 stands left of a break in the axis, under a tick named 0. Points that are not finished are hollow.

    Args:
        points: one a method.
        path: the image.
        ylabel: what the y axis shows, low being good.
        xlabel: what the x axis shows.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(11, 7))
    axes.set_xscale("log")
    zero = zero_place(points)
    places = [point.x or zero for point in points]
    best = frontier(points)
    corners = [(point.x or zero, point.y) for point in best]
    axes.step(*zip(*corners, strict=True), where="post", color="tab:orange", alpha=0.7, zorder=1)
    for point, x in zip(points, places, strict=True):
        fill = OPEN if point.open else DONE
        axes.errorbar(x, point.y, point.error, fmt="o", markersize=5, capsize=2, mfc=fill, color=DONE, linewidth=0.8)
    bytes_axis(axes, places, zero if 0 in [point.x for point in points] else None)
    low, high = min(point.y for point in points), max(point.y for point in points)
    axes.set_ylim(low - 0.08 * (high - low + 0.01), high + 0.08 * (high - low + 0.01))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    name_points(figure, axes, points, places)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def name_points(figure, axes, points: list[Point], places: list[float]) -> None:
    """Write every point's label beside it, with a line to those that stand apart.

    Args:
        figure: matplotlib's.
        axes: with their limits set.
        points: what is drawn.
        places: x of each.
    """
    figure.canvas.draw()
    pixels = axes.transData.transform([(x, point.y) for x, point in zip(places, points, strict=True)])
    area, size = axes.get_window_extent(), SIZE * figure.dpi / 72
    frame = Box(area.x0, area.y0, area.x1, area.y1)
    boxes = placed([tuple(pixel) for pixel in pixels], [point.label for point in points], size, frame)
    for point, (x, y), box in zip(points, pixels, boxes, strict=True):
        middle = ((box.left + box.right) / 2, (box.bottom + box.top) / 2)
        text = axes.transData.inverted().transform(middle)
        near = (min(max(x, box.left), box.right), min(max(y, box.bottom), box.top))
        if math.dist(near, (x, y)) > 1.2 * size:
            line = axes.transData.inverted().transform([near, (x, y)])
            axes.plot(line[:, 0], line[:, 1], color=EDGE, linewidth=0.5, zorder=0)
        axes.text(*text, point.label, fontsize=SIZE, ha="center", va="center")


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
