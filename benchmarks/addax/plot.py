"""The plot of the Addax benchmark."""

from pathlib import Path
from statistics import mean

from ..shared.markdown import spread
from ..shared.plots import MARKERS, bytes_axis, pyplot
from .summary import kept


def plot(rows: list[dict], path: Path) -> None:
    """Draw validation accuracy against CPU seconds (left, mean over seeds) and test accuracy against bytes."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 5), sharey=False)
    for marker, row in zip(MARKERS, rows, strict=False):
        left.plot(*mean_curve(row), marker=marker, markersize=4, alpha=0.85, label=row["label"])
        middle, error = spread([100 * found["all"] for found in row["test"].values()])
        right.errorbar(kept(row), middle, error, fmt=marker, capsize=4, alpha=0.85, label=row["label"])
    left.set(
        xlabel="CPU seconds of training, log scale", ylabel="validation accuracy, % (mean over seeds)", xscale="log"
    )
    right.set(xlabel="bytes: weights, state, saved for backward", ylabel="test accuracy, % (mean, sd over seeds)")
    right.set_xscale("log")
    bytes_axis(right, [kept(row) for row in rows], None)
    right.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def mean_curve(row: dict) -> tuple[list[float], list[float]]:
    """Return CPU seconds and validation accuracy in percent, each averaged over the seeds; the start is left out."""
    points = list(zip(*row["curves"].values(), strict=False))[1:]
    return (
        [mean(one["cpu_seconds"] for one in at) for at in points],
        [100 * mean(one["accuracy"] for one in at) for at in points],
    )
