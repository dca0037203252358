"""The plot of the fine-tuning tables: quality against bytes of state, a panel a task, every point with its name."""

from math import sqrt
from pathlib import Path
from statistics import mean, stdev

from ..shared.plots import bytes_axis, pyplot
from .rows import Measured
from .search import Row
from .task import Task

COLOURS = {"full": "#1f77b4", "lora": "#d1620c", "lora-nf4": "#2a7f3f"}


def draw(rows: dict[Row, Measured], tasks: dict[str, Task], path: Path) -> None:
    """Draw all rows with two seeds or more at their best learning rate.

    Args:
        rows: of all tables.
        tasks: by name.
        path: the image.
    """
    shown = {
        name: [found for row, found in rows.items() if row.task == name and len(found.runs) > 1] for name in tasks
    }
    shown = {name: found for name, found in shown.items() if found}
    plt = pyplot()
    figure, panels = plt.subplots(len(shown), 1, figsize=(11, 7 * len(shown)), squeeze=False)
    for axes, (name, found) in zip(panels[:, 0], shown.items(), strict=True):
        panel(axes, found)
        axes.set(title=tasks[name].title, xlabel="bytes of optimizer state, log scale")
        axes.set_ylabel("test accuracy, % (mean ± standard error)" if tasks[name].accuracy else "test loss, nats")
    figure.savefig(path, dpi=90, bbox_inches="tight")
    plt.close(figure)


def panel(axes, found: list[Measured]) -> None:
    """Draw the points of one task, full weights and LoRA in colours of their own."""
    sizes = [one.state_bytes for one in found if one.state_bytes]
    zero = min(sizes, default=10_000) / 8
    places = [one.state_bytes or zero for one in found]
    axes.set_xscale("log")
    for one, x in zip(found, places, strict=True):
        values = list(one.test.values())
        error = stdev(values) / sqrt(len(values)) if len(values) > 1 else 0.0
        colour = COLOURS[one.row.mode]
        axes.errorbar(x, mean(values), error, fmt="o", color=colour, alpha=0.5, markersize=4, linewidth=0.8)
        axes.annotate(one.label, (x, mean(values)), (4, 2), textcoords="offset points", fontsize=7, color=colour)
    for mode in dict.fromkeys(one.row.mode for one in found):
        axes.plot([], [], "o", color=COLOURS[mode], label=mode)
    bytes_axis(axes, places, None)
    if len(sizes) < len(found):
        axes.axvline(zero * 2.5, color="grey", linestyle=":", linewidth=1)
        axes.text(zero, axes.get_ylim()[0], "no state", fontsize=7, ha="center", va="bottom", color="grey")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
