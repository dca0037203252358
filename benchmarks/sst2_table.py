"""From the records of the SST-2 runs to the table, its JSON twin and the plot."""

import json
from pathlib import Path

import results

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


def record_path(folder: Path, name: str, lr: float, seed: int) -> Path:
    """Where the record of one run lies."""
    return folder / "sst2" / f"{name}_lr{lr:g}_seed{seed}.json"


def quality(record: dict) -> tuple[float, float]:
    """What a learning rate is chosen by: validation accuracy, then the lower validation loss."""
    return record["validation"]["accuracy"], -record["validation"]["loss"]


def records_of(folder: Path, name: str) -> list[dict]:
    """Every record of one method, by learning rate and seed."""
    found = [json.loads(path.read_text()) for path in (folder / "sst2").glob(f"{name}_lr*_seed*.json")]
    return sorted(found, key=lambda record: (record["lr"], record["seed"]))


def chosen_lr(folder: Path, name: str) -> float:
    """Return the learning rate that did best on validation with seed 0."""
    return max((record for record in records_of(folder, name) if record["seed"] == 0), key=quality)["lr"]


def summary(folder: Path, name: str, label: str) -> dict:
    """Return one row of the table in numbers: every seed at the chosen learning rate, and the search."""
    records = records_of(folder, name)
    lr = chosen_lr(folder, name)
    chosen = [record for record in records if record["lr"] == lr]
    return {
        "method": name,
        "label": label,
        "lr": lr,
        "seeds": [record["seed"] for record in chosen],
        "test": [record["test"]["accuracy"] for record in chosen],
        "validation": [record["validation"]["accuracy"] for record in chosen],
        "search": {f"{record['lr']:g}": record["validation"]["accuracy"] for record in records if record["seed"] == 0},
        "state_bytes": max(record["state_bytes"] for record in chosen),
        "weight_bytes": max(record["weight_bytes"] for record in chosen),
        **{key: least(records, key) for key in TIMES},
        "environment": chosen[0]["environment"],
        "settings": chosen[0]["settings"],
    }


def least(records: list[dict], key: str) -> dict[str, float]:
    """Return median and mean in the least disturbed of the runs; the learning rate does not matter for times."""
    return min((record[key] for record in records), key=lambda times: times["median"])


def publish(folder: Path, labels: dict[str, str]) -> str:
    """Write sst2.json, sst2.md and sst2.png for the methods that have records; return the table."""
    rows = [summary(folder, name, label) for name, label in labels.items() if records_of(folder, name)]
    if not rows:
        raise SystemExit(f"no results in {folder / 'sst2'} yet: run without --table first")
    results.save(folder / "sst2.json", {"rows": rows})
    table = results.table(HEADER, [cells(row, rows[0]) for row in rows])
    results.write(folder / "sst2.md", "\n".join([title(rows[0]), table, search_table(rows), footnote(rows)]))
    results.plot([point(row) for row in rows], folder / "sst2.png", "SST-2 dev accuracy, % (mean, sd over seeds)")
    return table


def percent(values: list[float]) -> str:
    if not values:
        return "–"
    middle, error = results.spread(values)
    return f"{100 * middle:.2f} ± {100 * error:.2f}"


def gains(row: dict, base: dict) -> list[float]:
    """Test accuracy minus the base's, seed by seed."""
    known = dict(zip(base["seeds"], base["test"], strict=True)) if row is not base else {}
    return [test - known[seed] for seed, test in zip(row["seeds"], row["test"], strict=True) if seed in known]


def cells(row: dict, base: dict) -> list[str]:
    return [
        row["label"],
        f"{row['lr']:g}",
        percent(row["test"]),
        percent(gains(row, base)),
        percent(row["validation"]),
        results.human(row["state_bytes"]),
        results.human(row["weight_bytes"]),
        f"{row['seconds_per_step']['median']:.3f}",
        f"{row['cpu_seconds_per_step']['median']:.3f}",
        f"{1000 * row['update_cpu_seconds_per_step']['mean']:.0f}",
    ]


def point(row: dict) -> results.Point:
    middle, error = results.spread(row["test"])
    return results.Point(row["label"], row["state_bytes"], 100 * middle, 100 * error)


def title(row: dict) -> str:
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
    """The learning rates tried, each with its validation accuracy; the best of a row is bold."""
    lines = [[row["label"], ", ".join(tried(row, lr) for lr in row["search"])] for row in rows]
    return "## Learning rates tried (seed 0, validation accuracy in %)\n\n" + results.table(["method", "tried"], lines)


def tried(row: dict, lr: str) -> str:
    shown = f"{lr}: {100 * row['search'][lr]:.2f}"
    return f"**{shown}**" if float(lr) == row["lr"] else shown


def footnote(rows: list[dict]) -> str:
    environment = rows[0]["environment"]
    return "Measured with " + ", ".join(f"{key} {value}" for key, value in environment.items()) + ".\n"
