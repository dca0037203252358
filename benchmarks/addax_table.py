"""From the records of the Addax runs to the table, its JSON twin and the plot."""

from pathlib import Path
from statistics import mean, median

import addax_text
import addax_verdict as verdicts
import results
from addax_arms import ARMS
from addax_records import beyond, choice, runs_of, tried

HEADER = [
    "arm",
    "learning rate",
    "test accuracy, %",
    "short",
    "long",
    "minus MeZO's",
    "steps",
    "CPU s",
    "CPU s to MeZO's best",
    "saved for backward",
    "a step takes",
    "with weights and state",
]


def summary(folder: Path, name: str) -> dict | None:
    """One row of the table in numbers: every seed at the setting that did best; None before there are runs."""
    arm, runs = ARMS[name], runs_of(folder, name)
    found = tried(runs_of(folder, arm.like or name))
    if not runs or not found:
        return None
    best = choice(found)
    chosen = {seed: record for (setting, seed), record in runs.items() if setting == best}
    if not chosen:
        return None
    one = next(iter(chosen.values()))
    return {
        "arm": name,
        "label": arm.label,
        "lr": best.lr,
        "alpha": best.alpha,
        "edge": beyond([setting.lr for setting in found], best.lr) is not None,
        "search": [[*setting, quality[0]] for setting, quality in found.items()],
        "test": {seed: record["test"] for seed, record in chosen.items()},
        "zero_shot": one["zero_shot"],
        "curves": {seed: record["curve"] for seed, record in chosen.items()},
        "steps": one["steps_done"],
        "diverged": sum(record["diverged"] for record in chosen.values()),
        "cpu_seconds": median(record["cpu_seconds"] for record in chosen.values()),
        **{key: one[key] for key in ("saved_bytes", "step_bytes", "state_bytes", "weight_bytes")},
        "environment": one["environment"],
        "settings": one["settings"],
    }


def publish(folder: Path) -> str:
    """Write the .json, .md and .png beside the folder of the records; return table and verdicts."""
    found = [row for name in ARMS if (row := summary(folder, name))]
    if not found:
        raise SystemExit(f"no results in {folder} yet: run without --table first")
    rows = {row["arm"]: row for row in found}
    mezo = rows.get("mezo")
    table = results.table(HEADER, [zero_shot(found[0]), *(cells(row, mezo) for row in found)])
    said = verdicts.claims(rows)
    parts = [
        addax_text.title(found),
        table,
        said and f"## What is reproduced\n\n{said}",
        search_table(found),
        footnote(found[0]),
    ]
    results.save(folder.with_suffix(".json"), {"rows": found})
    results.write(folder.with_suffix(".md"), "\n".join(part for part in parts if part))
    plot(found, folder.with_suffix(".png"))
    return f"{table}\n{said}"


def alone(row: dict) -> str:
    """A warning where there is no second seed."""
    return " (one seed)" if len(row["test"]) == 1 else ""


def accuracy(row: dict, part: str) -> str:
    return percent([found[part] for found in row["test"].values()])


def percent(values: list[float], sign: str = "") -> str:
    if not values:
        return "–"
    middle, error = results.spread([100 * value for value in values])
    return f"{middle:{sign}.2f} ± {error:.2f}" if len(values) > 1 else f"{middle:{sign}.2f}"


def cells(row: dict, mezo: dict | None) -> list[str]:
    compared = verdicts.pairs(row, mezo).differences if mezo and row is not mezo else []
    return [
        row["label"],
        f"{row['lr']:g}" + (f", α {row['alpha']:g}" if row["alpha"] else "") + (" (edge)" if row["edge"] else ""),
        accuracy(row, "all") + (f" ({row['diverged']} diverged)" if row["diverged"] else "") + alone(row),
        accuracy(row, "short"),
        accuracy(row, "long"),
        percent(compared, "+"),
        str(row["steps"]),
        f"{row['cpu_seconds']:.1f}",
        catching_up(row, mezo),
        results.human(row["saved_bytes"]),
        results.human(row["step_bytes"]),
        results.human(verdicts.memory(row)),
    ]


def zero_shot(row: dict) -> list[str]:
    """The line of the model as it is before any of the runs."""
    weights = results.human(row["weight_bytes"])
    found = [percent([row["zero_shot"][part]]) for part in ("all", "short", "long")]
    return ["zero-shot", "–", *found, "–", "0", "0", "–", "–", "–", weights]


def catching_up(row: dict, mezo: dict | None) -> str:
    """Median CPU seconds to MeZO's best validation accuracy of the same seed, over the seeds that came to it."""
    if mezo is None:
        return "–"
    seeds = [seed for seed in row["curves"] if seed in mezo["curves"]]
    goals = {seed: max(point["accuracy"] for point in mezo["curves"][seed]) for seed in seeds}
    times = [verdicts.reached(row["curves"][seed], goals[seed]) for seed in seeds]
    came = [time for time in times if time is not None]
    text = f"{median(came):.1f}" if came else "never"
    return text if len(came) in (0, len(times)) else f"{text} ({len(came)} of {len(times)} seeds)"


def plot(rows: list[dict], path: Path) -> None:
    """Left: validation accuracy against CPU seconds, mean over seeds. Right: test accuracy against bytes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 5), sharey=False)
    for marker, row in zip(results.MARKERS, rows, strict=False):
        left.plot(*mean_curve(row), marker=marker, markersize=4, alpha=0.85, label=row["label"])
        middle, error = results.spread([100 * found["all"] for found in row["test"].values()])
        right.errorbar(kept(row), middle, error, fmt=marker, capsize=4, alpha=0.85, label=row["label"])
    left.set(
        xlabel="CPU seconds of training, log scale", ylabel="validation accuracy, % (mean over seeds)", xscale="log"
    )
    right.set(xlabel="bytes: weights, state, saved for backward", ylabel="test accuracy, % (mean, sd over seeds)")
    right.set_xscale("log")
    results.bytes_axis(right, [kept(row) for row in rows], None)
    right.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def kept(row: dict) -> int:
    """Bytes of weights, state and what autograd keeps for the backward pass."""
    return row["weight_bytes"] + row["state_bytes"] + row["saved_bytes"]


def mean_curve(row: dict) -> tuple[list[float], list[float]]:
    """CPU seconds and validation accuracy in percent, each averaged over the seeds; the start is left out."""
    points = list(zip(*row["curves"].values(), strict=False))[1:]
    return (
        [mean(one["cpu_seconds"] for one in at) for at in points],
        [100 * mean(one["accuracy"] for one in at) for at in points],
    )


def search_table(rows: list[dict]) -> str:
    """What was tried, each with its validation accuracy; the best of a row is bold."""
    lines = [[row["label"], ", ".join(shown(row, *found) for found in row["search"])] for row in rows]
    return "## Tried (seed 0, best validation accuracy in %)\n\n" + results.table(["arm", "tried"], lines)


def shown(row: dict, lr: float, alpha: float | None, found: float) -> str:
    text = f"{lr:g}" + (f", α {alpha:g}" if alpha else "") + f": {100 * found:.2f}"
    return f"**{text}**" if (lr, alpha) == (row["lr"], row["alpha"]) else text


def footnote(row: dict) -> str:
    return "Measured with " + ", ".join(f"{key} {value}" for key, value in row["environment"].items()) + ".\n"
