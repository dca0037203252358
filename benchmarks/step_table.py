"""From the records of step.py to its tables, their JSON twin and the plot."""

import json
from pathlib import Path

import results
from rich import box
from rich.table import Table
from step_measure import share_of_bandwidth

GOAL_SETTING = ("cpu", "60m")  # device and set for which there are goals
GOALS = {  # times of torch's fused AdamW; in bf16 weights are rounded at random unless +nearest
    "fp32": {
        "hybridopt.adamw": 1.1,
        "hybridopt.signsgd": 0.50,
        "hybridopt.frugal-0": 0.75,
        "hybridopt.frugal": 0.95,
        "hybridopt.adalomo": 1.2,
        "hybridopt.adam_mini": 0.95,
        "hybridopt.adafactor": 1.5,
        "hybridopt.came": 2.5,
        "hybridopt.adamw-int8": 3.0,
    },
    "bf16": {
        "hybridopt.signsgd+nearest": 0.40,
        "hybridopt.adam_mini+nearest": 0.8,
        "hybridopt.adalomo+nearest": 1.5,
        "hybridopt.signsgd": 0.9,
        "hybridopt.adamw": 2.0,
    },
}
HEADER = [
    "row",
    "ms",
    "times fused AdamW",
    "quartiles",
    "target",
    "missed by",
    "without finite check",
    "first step, s",
    "state, B/param",
    "share of copy bandwidth",
    "temporary, MB",
]
SHORT = ["row", "ms", "ratio", "quartiles", "target", "missed", "no check", "first s", "B/param", "share", "temp MB"]
NOTE = """Every step is measured between two steps of torch's AdamW(fused=True) on the same weights and gradients;
"times fused AdamW" is the median of its time over the mean of both neighbours. hybridopt checks that gradients are
finite (its default); one column shows it without. In bf16, hybridopt rounds weights at random, rows with +nearest to
nearest; other packages do as they do. "First step" holds compilation (with whatever torch's compile cache already
had). State is what the optimizer's tensors take. Share of bandwidth: the bytes of reading gradients and of reading
and writing weights and state once, over the time, over the copy bandwidth measured beside each row. Temporary: the
most that one step allocates on top, by torch's allocator.
"""


def groups(folder: Path) -> dict[str, list[dict]]:
    """The records of every device, set and dtype, in order of measurement."""
    found: dict[str, list[dict]] = {}
    records = [json.loads(path.read_text()) for path in sorted((folder / "step").glob("*/*.json"))]
    for record in sorted(records, key=lambda record: record["index"]):
        found.setdefault(label(record["settings"]), []).append(record)
    return dict(sorted(found.items(), reverse=True))


def label(settings: dict) -> str:
    """The group that a record belongs to."""
    return f"{settings['device']}-{settings['set']}-{settings['dtype']}"


def goal(record: dict) -> float | None:
    """What the ratio should be at most; None where nothing was set."""
    settings = record["settings"]
    if (settings["device"], settings["set"]) != GOAL_SETTING:
        return None
    return GOALS[settings["dtype"]].get(record["row"])


def missed(record: dict) -> float | None:
    """By what share the ratio is over its target; None where it is not."""
    target = goal(record)
    if target is None or "failed" in record or record["ratio"] <= target:
        return None
    return record["ratio"] / target - 1


def cells(record: dict) -> list[str]:
    """One line of the table."""
    target, over = goal(record), missed(record)
    asked = ["" if target is None else f"{target:.2f}", "" if over is None else f"{over:.0%}"]
    if "failed" in record:
        return [record["row"], "failed", record["failed"][:60], "", *asked, *[""] * 5]
    ignore = record["variants"].get("ignore")
    return [
        record["row"],
        f"{1000 * record['seconds']:.1f}",
        f"{record['ratio']:.2f}",
        "–".join(f"{value:.2f}" for value in record["ratio_quartiles"]),
        *asked,
        f"{ignore['ratio']:.2f}" if ignore else "",
        f"{record['first_seconds']:.1f}",
        f"{record['state_bytes_per_parameter']:.3f}",
        f"{share_of_bandwidth(record):.2f}",
        f"{record['peak_temporary_bytes'] / 1e6:.1f}",
    ]


def rich_tables(folder: Path) -> list[Table]:
    """A table for the terminal a group."""
    found = []
    for name, records in groups(folder).items():
        table = Table(*SHORT[:1], title=title(name, records), box=box.SIMPLE)
        for column in SHORT[1:]:
            table.add_column(column, justify="right")
        for record in records:
            table.add_row(*cells(record), style="red" if missed(record) or "failed" in record else None)
        found.append(table)
    return found


def title(name: str, records: list[dict]) -> str:
    first = records[0]
    size = f"{first['parameters'] / 1e6:.0f}M parameters in {first['tensors']} tensors"
    return f"{name}: {size}, {first['settings']['threads']} threads"


def publish(folder: Path) -> dict:
    """Write step.json, step.md and step.png; return what the JSON holds."""
    found = groups(folder)
    if not found:
        raise SystemExit(f"no results in {folder / 'step'} yet")
    parts = ["# The optimizer step against torch's fused AdamW\n", NOTE]
    for name, records in found.items():
        measured = ", ".join(f"{key} {value}" for key, value in records[0]["environment"].items())
        table = results.table(HEADER, [cells(record) for record in records])
        parts += [f"## {title(name, records)}\n", table, f"Measured with {measured}.\n"]
    document = {"groups": {name: [with_goal(r) for r in records] for name, records in found.items()}}
    results.save(folder / "step.json", document)
    results.write(folder / "step.md", "\n".join(parts))
    draw(found, folder / "step.png")
    return document


def with_goal(record: dict) -> dict:
    """A record with what is derived from it."""
    if "failed" in record:
        return record | {"target": goal(record)}
    share = share_of_bandwidth(record)
    return record | {"target": goal(record), "missed_by": missed(record), "share_of_copy_bandwidth": share}


def draw(found: dict[str, list[dict]], path: Path) -> None:
    """Bars of the ratios on a log axis, one panel a group; crosses are targets. Nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tall = max(len(records) for records in found.values())
    figure, axes = plt.subplots(1, len(found), figsize=(8 * len(found), 1.5 + 0.24 * tall), squeeze=False)
    for panel, (name, records) in zip(axes[0], found.items(), strict=True):
        bars(panel, sorted((r for r in records if "failed" not in r), key=lambda r: -r["ratio"]))
        panel.set(title=name, xlabel="step time over torch's fused AdamW, log scale")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def bars(panel, records: list[dict]) -> None:
    """The bars of one panel, hybridopt's in another colour."""
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
