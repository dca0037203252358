"""From the records of the pre-training runs to the table, its JSON twin and the plot."""

from statistics import median

from hybridopt.core.registry import names

from ..shared.files import write
from ..shared.markdown import human, measured_with, spread
from ..shared.markdown import table as markdown
from ..shared.plots import Point, plot
from ..shared.records import Records
from ..shared.timing import least
from .methods import EXCLUDED, Method
from .search import Runs, at_edge, best, runs_of, tried

HEADER = [
    "method",
    "learning rate",
    "validation loss",
    "minus AdamW's",
    "state",
    "as planned",
    "CPU s/step",
    "of it update, ms",
]


def summary(runs: Runs, name: str, method: Method, budget: dict) -> dict | None:
    """Return one row in numbers; None before there is a run at seed 0 that did not diverge.

    Args:
        runs: of the method.
        name: of the method.
        method: what it is.
        budget: settings that all records must have; SystemExit where one has others.
    """
    for record in runs.values():
        other = {key for key in budget if record["settings"].get(key) != budget[key]}
        if other:
            raise SystemExit(f"{name}: a record was made with another {', '.join(sorted(other))}; see --out")
    losses = tried(runs)
    if not losses or losses[best(losses)] == float("inf"):
        return None
    chosen = {seed: record for (lr, seed), record in runs.items() if lr == best(losses)}
    one = chosen[0]
    return {
        "method": name,
        "label": method.label,
        "lr": best(losses),
        "edge": at_edge(losses),
        "losses": {seed: record["validation_loss"] for seed, record in chosen.items()},
        "search": {f"{lr:g}": loss if loss < float("inf") else None for lr, loss in losses.items()},
        "state_bytes": max(record["state_bytes"] for record in chosen.values()),
        "planned_state_bytes": one["planned_state_bytes"],
        "weight_bytes": one["weight_bytes"],
        "peak_bytes": one["peak_bytes"],
        **{key: least(list(runs.values()), key) for key in ("cpu_seconds_per_step", "update_cpu_seconds_per_step")},
        "seconds_per_run": median(record["run_seconds"] for record in runs.values()),
        "environment": one["environment"],
        "settings": one["settings"],
    }


def publish(records: Records, methods: dict[str, Method], budget: dict) -> str:
    """Write .md and .png beside the records; return the table.

    Args:
        records: of the runs.
        methods: in the order of their rows.
        budget: settings that all records must have.
    """
    found = [summary(runs_of(records, name), name, method, budget) for name, method in methods.items()]
    rows = [row for row in found if row]
    if not rows:
        raise SystemExit(f"no results in {records.path} yet: run without --table first")
    base = next((row for row in rows if row["method"] == "adamw"), None)
    table = markdown(HEADER, [cells(row, base) for row in rows])
    parts = [title(rows), table, search_table(rows), measured_with(rows[0]["environment"])]
    write(records.path.with_suffix(".md"), "\n".join(parts))
    plot([point(row) for row in rows], records.path.with_suffix(".png"), "validation loss, nats per token")
    return table


def numbers(row: dict) -> dict[int, float]:
    """Return the losses by seed, without those of runs that diverged."""
    return {seed: loss for seed, loss in row["losses"].items() if loss is not None}


def gains(row: dict, base: dict | None) -> list[float]:
    """Return loss minus the base's, seed by seed."""
    if base is None or row is base:
        return []
    theirs = numbers(base)
    return [loss - theirs[seed] for seed, loss in numbers(row).items() if seed in theirs]


def shown_spread(values: list[float], sign: str = "") -> str:
    """Return mean and standard deviation; `sign` "+" for differences."""
    if not values:
        return "–"
    middle, error = spread(values)
    return f"{middle:{sign}.3f} ± {error:.3f}" if len(values) > 1 else f"{middle:{sign}.3f}"


def cells(row: dict, base: dict | None) -> list[str]:
    """Return one line of the table; `base` is the row to compare with."""
    planned = row["planned_state_bytes"]
    diverged = len(row["losses"]) - len(numbers(row))
    return [
        row["label"],
        f"{row['lr']:g}" + (" (edge)" if row["edge"] else ""),
        shown_spread(list(numbers(row).values())) + (f" ({diverged} diverged)" if diverged else ""),
        shown_spread(gains(row, base), "+"),
        human(row["state_bytes"]),
        "–" if planned is None else human(planned),
        f"{row['cpu_seconds_per_step']['median']:.3f}",
        f"{1000 * row['update_cpu_seconds_per_step']['mean']:.1f}",
    ]


def point(row: dict) -> Point:
    """Return the row's place in the plot."""
    return Point(row["label"], row["state_bytes"], *spread(list(numbers(row).values())))


def title(rows: list[dict]) -> str:
    """Return what stands above the table."""
    settings = rows[0]["settings"]
    seeds = sorted({seed for row in rows for seed in row["losses"]})
    tokens = settings["steps"] * settings["batch"] * settings["sequence"]
    return f"""# A small Llama from random weights: validation loss against bytes of optimizer state

Every run: hidden size {settings["hidden"]}, {settings["layers"]} layers, {settings["intermediate"]} inside the MLP,
{rows[0]["weight_bytes"]:,} bytes of {settings["weights"]} weights; a BPE of {settings["vocabulary"]} tokens trained on
the text ({", ".join(settings["train"])}); {settings["steps"]} steps of {settings["batch"]} x {settings["sequence"]}
tokens ({tokens:,} in all), the same ones in the same order for every method; warmup {settings["warmup"]:.0%} and
cosine to {settings["floor"]:.0%}, weight decay {settings["weight_decay"]:g}, no clipping, windows of
{settings["update_gap"]} steps. The budget is small: the table compares methods at equal tokens far from convergence.

- Loss in nats per token on {settings["validation"]} windows of {settings["held_out"]}, which no run trained on. The
  learning rate was chosen on the same windows with seed 0, from as many values for every method, extended while the
  best was the outermost ("edge": it still is).
- Mean ± standard deviation over seeds {", ".join(map(str, seeds))}; differences are taken seed by seed.
- State is the most that `optimizer.state` held in tensors; planned is what `model.hybrid.report()` said before.
- CPU seconds are the median over steps in the least disturbed of a method's runs, on one thread; the update is the
  mean over steps, so that it holds its share of choosing subspaces anew.
{left_out()}"""


def left_out() -> str:
    """Return a line on each reason for which ready policies have no row."""
    there = {name: EXCLUDED[name] for name in names("policies") if name in EXCLUDED}
    groups = {why: [f"`{name}`" for name in there if there[name] == why] for why in there.values()}
    return "".join(f"- Left out: {', '.join(group)}: {why}.\n" for why, group in groups.items())


def search_table(rows: list[dict]) -> str:
    """Return the learning rates tried, each with its validation loss; the best of a row is bold."""
    lines = [[row["label"], ", ".join(shown(row, lr) for lr in row["search"])] for row in rows]
    return "## Learning rates tried (seed 0, validation loss)\n\n" + markdown(["method", "tried"], lines)


def shown(row: dict, lr: str) -> str:
    """Return one learning rate that was tried."""
    loss = row["search"][lr]
    text = f"{lr}: " + ("diverged" if loss is None else f"{loss:.3f}")
    return f"**{text}**" if float(lr) == row["lr"] else text
