"""From the records of the Addax runs to the table, its JSON twin and the plot."""

from pathlib import Path
from statistics import mean, median

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
    parts = [title(found), table, said and f"## What is reproduced\n\n{said}", search_table(found), footnote(found[0])]
    results.save(folder.with_suffix(".json"), {"rows": found})
    results.write(folder.with_suffix(".md"), "\n".join(part for part in parts if part))
    plot(found, folder.with_suffix(".png"))
    return f"{table}\n{said}"


def title(rows: list[dict]) -> str:
    settings, seeds = rows[0]["settings"], sorted({seed for row in rows for seed in row["test"]})
    least, most = settings["bundle"]
    return f"""# Addax and its neighbours on short and long reviews: accuracy, CPU seconds, bytes

The model: a causal language model of {rows[0]["weight_bytes"] // 4:,} parameters, trained from random weights on
real text (WikiText-2, two novels, BoolQ's passages, SST-2's sentences without labels), then warmed up on labelled
SST-2 phrases under other questions and answers than the task's. Without a warm start zeroth-order steps learn nothing
from so small a model; with it the model knows what a review says, but not yet how this question is answered.

The task: half of the examples are short (an SST-2 phrase, "my thumbs are" [down|up], as many of either), half are long
({least} to {most} phrases on end, two thirds of them of the label that the whole has; "all in all, my thumbs are";
{settings["positive"]:.0%} positive). The question, the aggregation and the share of positive ones differ, so that the
short ones are no proxy for all, and whoever never sees a long one cannot know that most are negative (always "down"
is right for {1 - settings["positive"]:.0%} of them). Long is what has more than L_T = {settings["threshold"]} tokens.

- {settings["train"]} training examples, {settings["steps"]} steps for every arm but one, constant learning rate, fp32.
  MeZO probes {ARMS["mezo"].probes} examples a step; Addax {ARMS["addax"].probes} long ones, with gradients of
  {ARMS["addax"].gradients} short ones; Addax-WA as many of all lengths; the rest take gradients of
  {ARMS["ip-sgd"].gradients}. Directions are Rademacher, eps 1e-3, of the library's own generator.
- Every arm had the same number of tries for learning rate (and α), by the best validation accuracy with seed 0. The
  arm with checkpointing computes what IP-SGD computes and takes its rate; MeZO with more steps takes MeZO's.
- Test accuracy is that of the weights that did best on {settings["validation"]} validation examples, looked at
  {settings["evaluations"]} times a run and before it; {settings["test"]} test examples from GLUE's dev set, whose
  sentences each come in several long ones. Mean ± standard deviation over seeds {", ".join(map(str, seeds))}; a seed
  draws batches and directions, and differences are taken seed by seed.
- CPU seconds are processor time of the steps alone, on one thread, median over seeds, on a machine shared with others.
- Saved for backward: bytes that autograd keeps from forward to backward (of a checkpointed layer only its input). A
  step takes: the most allocated within a step beyond weights and state. Both on the longest batch there is.
"""


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
        accuracy(row, "all") + (f" ({row['diverged']} diverged)" if row["diverged"] else ""),
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
