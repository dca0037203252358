"""Curves as pictures of their own: lines in SVG that stretches, words in HTML that does not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .axes import Axis
from .markup import Html, data, element, join
from .series import Series, thinned

__all__ = ["ChartBody", "Line", "chart", "frame", "key_entry", "points"]

SIDE = 1000  # of the picture, in its own units


@dataclass(frozen=True)
class Line:
    """A curve of a chart.

    Args:
        series: its points.
        look: the class by which it is coloured.
        dots: whether its points are drawn, too.
        legend: whether it is named below the title.
    """

    series: Series
    look: str
    dots: bool = False
    legend: bool = True


@dataclass(frozen=True)
class ChartBody:
    """What is between the axes.

    Args:
        x: the axis below.
        y: the axis on the left.
        shapes: SVG, from the bottom up.
        words: HTML on top of it.
        told: the series that the reader's pointer tells of, by name and look.
    """

    x: Axis
    y: Axis
    shapes: Html = Html("")
    words: Html = Html("")
    told: Sequence[tuple[str, Series]] = field(default_factory=tuple)


def chart(title: str, lines: Sequence[Line], x: Axis, y: Axis, about: str = "", write: str = "number") -> Html:
    """Return a chart of curves, with gaps where a value is none, which the upper edge tells.

    Args:
        title: above it.
        lines: from the bottom up.
        x: the axis of steps.
        y: of values.
        about: a sentence below the title.
        write: how the pointer's values are written: "number" or "bytes".
    """
    thin = [Line(thinned(line.series), line.look, line.dots, line.legend) for line in lines]
    shapes = join(*(shape for line in thin for shape in _curve(line, x, y)))
    broken = sorted({at for line in thin for at in line.series.broken})
    words = join(*(dot for line in thin for dot in _dots(line, x, y)), *(_broken(at, x) for at in broken))
    told = [(line.look, line.series) for line in thin]
    entries = [key_entry(line.series.name, line.look) for line in thin if line.legend and len(lines) > 1]
    return frame(title, ChartBody(x, y, shapes, words, told), entries, about, write)


def _curve(line: Line, x: Axis, y: Axis) -> Iterable[Html]:
    """Yield a polyline for every stretch without gaps."""
    for run in line.series.runs():
        yield element("polyline", class_=f"line {line.look}", points=points(run, x, y))


def _dots(line: Line, x: Axis, y: Axis) -> Iterable[Html]:
    """Yield a dot for every point of a line that has them, and for points without a neighbour on any."""
    for run in line.series.runs():
        for at, value in run if line.dots or len(run) == 1 else ():
            yield element("i", class_=f"dot {line.look}", style=f"left:{_percent(x.place(at))};{_top(y, value)}")


def points(run: Iterable[tuple[float, float]], x: Axis, y: Axis) -> str:
    """Return points as SVG writes them.

    Args:
        run: values beside their steps.
        x: the axis of steps.
        y: of values.
    """
    return " ".join(f"{SIDE * x.place(at):.1f},{SIDE * (1 - y.place(value)):.1f}" for at, value in run)


def frame(title: str, drawing: ChartBody, entries: Sequence[Html], about: str = "", write: str = "number") -> Html:
    """Return a figure: title, legend, axes, and what is drawn between them.

    Args:
        title: above it.
        drawing: what is drawn.
        entries: of the legend.
        about: a sentence below the title.
        write: how the pointer's values are written: "number" or "bytes".
    """
    x, y = drawing.x, drawing.y
    grid = [_grid(0, 1 - y.place(tick), 1, 1 - y.place(tick)) for tick in y.ticks]
    marks = [element("span", y.write(tick), class_="y", style=_top(y, tick)) for tick in y.ticks]
    marks += [element("span", x.write(tick), class_="x", style=f"left:{_percent(x.place(tick))}") for tick in x.ticks]
    view = f"0 0 {SIDE} {SIDE}"
    picture = element(
        "svg", join(*grid), drawing.shapes, viewBox=view, preserveAspectRatio="none", role="img", aria_label=title
    )
    told = {
        "x": [x.low, x.high],
        "write": write,
        "series": [_told(look, each) for look, each in drawing.told],
    }
    head = element("figcaption", element("h3", title), *([element("p", about)] if about else []))
    legend = [element("div", *entries, class_="legend")] if entries else []
    area = element("div", picture, drawing.words, *marks, class_="area")
    return element("figure", head, *legend, element("div", area, class_="plot"), data(told), class_="card chart")


def key_entry(name: str, look: str) -> Html:
    """Return a legend's word with its colour."""
    return element("span", element("i", class_=f"key {look}"), name)


def _told(look: str, told: Series) -> dict[str, object]:
    ys = [None if y is None else float(f"{y:.6g}") for y in told.ys]
    return {"name": told.name, "look": look, "x": list(told.xs), "y": ys}


def _grid(x1: float, y1: float, x2: float, y2: float) -> Html:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return element("line", class_="guide", **{key: f"{SIDE * value:.1f}" for key, value in ends.items()})


def _broken(at: float, x: Axis) -> Html:
    return element("i", class_="broken", style=f"left:{_percent(x.place(at))}", title=f"step {at:g}: not a number")


def _top(y: Axis, value: float) -> str:
    return f"top:{_percent(1 - y.place(value))}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"
