"""The plot of the step table."""

from pathlib import Path

from ..shared.plots import pyplot
from .goals import goal


def draw(groups: dict[str, list[dict]], path: Path) -> None:
    """Draw bars of the ratios on a log axis, one panel a group; crosses are goals. Nothing without matplotlib."""
    try:
        plt = pyplot()
    except ImportError:
        return
    tall = max(len(records) for records in groups.values())
    figure, axes = plt.subplots(1, len(groups), figsize=(8 * len(groups), 1.5 + 0.24 * tall), squeeze=False)
    for panel, (name, records) in zip(axes[0], groups.items(), strict=True):
        bars(panel, sorted((r for r in records if "failed" not in r), key=lambda r: -r["ratio"]))
        panel.set(title=name, xlabel="step time over torch's fused AdamW, log scale")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def bars(panel, records: list[dict]) -> None:
    """Draw the bars of one panel, hybridopt's in another colour."""
    names = [record["row"] for record in records]
    colours = ["tab:blue" if name.startswith("hybridopt") else "lightgrey" for name in names]
    panel.barh(names, [record["ratio"] for record in records], color=colours)
    for record in records:
        if goal(record) is not None:
            panel.plot(goal(record), record["row"], "kx")
    panel.set_xscale("log")
    panel.axvline(1, color="black", linewidth=1)
    panel.tick_params(axis="y", labelsize=8)
    panel.margins(y=0.01)
