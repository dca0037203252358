"""From the records of the SST-2 runs to the table, its JSON twin and the plot."""

from ..shared.files import write
from ..shared.markdown import human, measured_with, spread
from ..shared.markdown import table as markdown
from ..shared.plots import Point, plot
from ..shared.records import Records
from ..shared.timing import least
from .search import chosen_lr, runs_of

HEADER = [
    "method",
    "learning rate",
    "test accuracy, %",
    "minus the first row's",
    "validation, %",
    "state",
    "weights",
    "s/step",
    "CPU s/step",
    "of it update, ms",
]

TIMES = ("seconds_per_step", "cpu_seconds_per_step", "update_cpu_seconds_per_step")


def summary(records: Records, name: str, label: str) -> dict:
    """Return one row in numbers: every seed at the chosen learning rate, and the search.

    Args:
        records: of all runs.
        name: of the method.
        label: of the row.
    """
    runs, lr = runs_of(records, name), chosen_lr(records, name)
    chosen = [record for record in runs if record["lr"] == lr]
    return {
        "method": name,
        "label": label,
        "lr": lr,
        "seeds": [record["seed"] for record in chosen],
        "test": [record["test"]["accuracy"] for record in chosen],
        "validation": [record["validation"]["accuracy"] for record in chosen],
        "search": {f"{record['lr']:g}": record["validation"]["accuracy"] for record in runs if record["seed"] == 0},
        "state_bytes": max(record["state_bytes"] for record in chosen),
        "weight_bytes": max(record["weight_bytes"] for record in chosen),
        **{key: least(runs, key) for key in TIMES},
        "environment": chosen[0]["environment"],
        "settings": chosen[0]["settings"],
    }


def publish(records: Records, labels: dict[str, str]) -> str:
    """Write .md and .png beside the records, for the methods that have some; return the table."""
    rows = [summary(records, name, label) for name, label in labels.items() if runs_of(records, name)]
    if not rows:
        raise SystemExit(f"no results in {records.path} yet: run without --table first")
    table = markdown(HEADER, [cells(row, rows[0]) for row in rows])
    parts = [title(rows[0]), table, search_table(rows), measured_with(rows[0]["environment"])]
    write(records.path.with_suffix(".md"), "\n".join(parts))
    points = [point(row) for row in rows]
    plot(points, records.path.with_suffix(".png"), "SST-2 dev accuracy, % (mean, sd over seeds)")
    return table


def percent(values: list[float]) -> str:
    """Return mean and standard deviation of shares in percent."""
    if not values:
        return "–"
    middle, error = spread(values)
    return f"{100 * middle:.2f} ± {100 * error:.2f}"


def gains(row: dict, base: dict) -> list[float]:
    """Return test accuracy minus the base's, seed by seed."""
    known = dict(zip(base["seeds"], base["test"], strict=True)) if row is not base else {}
    return [test - known[seed] for seed, test in zip(row["seeds"], row["test"], strict=True) if seed in known]


def cells(row: dict, base: dict) -> list[str]:
    """Return one line of the table; `base` is the row to compare with."""
    return [
        row["label"],
        f"{row['lr']:g}",
        percent(row["test"]),
        percent(gains(row, base)),
        percent(row["validation"]),
        human(row["state_bytes"]),
        human(row["weight_bytes"]),
        f"{row['seconds_per_step']['median']:.3f}",
        f"{row['cpu_seconds_per_step']['median']:.3f}",
        f"{1000 * row['update_cpu_seconds_per_step']['mean']:.0f}",
    ]


def point(row: dict) -> Point:
    """Return the row's place in the plot."""
    middle, error = spread(row["test"])
    return Point(row["label"], row["state_bytes"], 100 * middle, 100 * error)


def title(row: dict) -> str:
    """Return what stands above the table."""
    settings = row["settings"]
    return f"""# SST-2, all-MiniLM-L6-v2: accuracy against bytes of optimizer state

Every run: {settings["steps"]} steps of {settings["batch"]} examples (at most {settings["max_length"]} tokens), the
same batches for every method; warmup {settings["warmup"]:.0%} and linear decay, weight decay
{settings["weight_decay"]:g}; fp32 weights, bf16 autocast, fp32 state. The embedding tables are frozen for every
method, as in FRUGAL's GLUE runs. The budget is small, so that the whole table takes one core half an hour: it compares
methods at an equal budget, and accuracies stay below what longer training reaches.

- Test is GLUE's dev set (872 sentences); validation is {settings["validation"]} phrases held out of train.
- Mean ± standard deviation over seeds {", ".join(map(str, row["seeds"]))}; differences are taken seed by seed.
- State is the most that `optimizer.state` held in tensors; weights include what quantization keeps beside them.
- Seconds are the median over steps in the least disturbed of a method's runs (the machine was shared), on one thread;
  the update is the mean over steps, so that it holds its share of choosing subspaces anew.
"""


def search_table(rows: list[dict]) -> str:
    """Return the learning rates tried, each with its validation accuracy; the best of a row is bold."""
    lines = [[row["label"], ", ".join(tried(row, lr) for lr in row["search"])] for row in rows]
    return "## Learning rates tried (seed 0, validation accuracy in %)\n\n" + markdown(["method", "tried"], lines)


def tried(row: dict, lr: str) -> str:
    """Return one learning rate that was tried."""
    shown = f"{lr}: {100 * row['search'][lr]:.2f}"
    return f"**{shown}**" if float(lr) == row["lr"] else shown
