"""From the rows of the Addax benchmark to its table."""

from statistics import median

from ..shared.files import write
from ..shared.markdown import human, measured_with, spread
from ..shared.markdown import table as markdown
from ..shared.records import Records
from . import buried_text, regime, text, verdict
from .plot import plot
from .summary import memory, rows

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


def publish(records: Records) -> str:
    """Write .md and .png beside the records; return table and verdicts."""
    found = rows(records)
    if not found:
        raise SystemExit(f"no results in {records.path} yet: run without --table first")
    by_name = {row["arm"]: row for row in found}
    mezo = by_name.get("mezo") or by_name.get("buried-mezo")
    table = markdown(HEADER, [zero_shot(found[0]), *(cells(row, mezo) for row in found)])
    said = verdict.claims(by_name) or regime.claims(by_name)
    parts = [
        (buried_text if found[0]["settings"].get("after") else text).title(found),
        table,
        said and f"## What is reproduced\n\n{said}",
        search_table(found),
        measured_with(found[0]["environment"]),
    ]
    write(records.path.with_suffix(".md"), "\n".join(part for part in parts if part))
    plot(found, records.path.with_suffix(".png"))
    return f"{table}\n{said}"


def cells(row: dict, mezo: dict | None) -> list[str]:
    """Return one line of the table; `mezo` is the row to compare with."""
    compared = verdict.pairs(row, mezo).differences if mezo and row is not mezo else []
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
        human(row["saved_bytes"]),
        human(row["step_bytes"]),
        human(memory(row)),
    ]


def zero_shot(row: dict) -> list[str]:
    """Return the line of the model as it is before any of the runs."""
    weights = human(row["weight_bytes"])
    found = [percent([row["zero_shot"][part]]) for part in ("all", "short", "long")]
    return ["zero-shot", "–", *found, "–", "0", "0", "–", "–", "–", weights]


def alone(row: dict) -> str:
    """Return a warning where there is no second seed."""
    return " (one seed)" if len(row["test"]) == 1 else ""


def accuracy(row: dict, part: str) -> str:
    """Return test accuracy over seeds, of "all", the "short" or the "long"."""
    return percent([found[part] for found in row["test"].values()])


def percent(values: list[float], sign: str = "") -> str:
    """Return mean and standard deviation of shares in percent; `sign` "+" for differences."""
    if not values:
        return "–"
    middle, error = spread([100 * value for value in values])
    return f"{middle:{sign}.2f} ± {error:.2f}" if len(values) > 1 else f"{middle:{sign}.2f}"


def catching_up(row: dict, mezo: dict | None) -> str:
    """Return median CPU seconds to MeZO's best validation accuracy of the same seed, over seeds that came to it."""
    if mezo is None:
        return "–"
    seeds = [seed for seed in row["curves"] if seed in mezo["curves"]]
    goals = {seed: max(point["accuracy"] for point in mezo["curves"][seed]) for seed in seeds}
    times = [verdict.reached(row["curves"][seed], goals[seed]) for seed in seeds]
    came = [time for time in times if time is not None]
    said = f"{median(came):.1f}" if came else "never"
    return said if len(came) in (0, len(times)) else f"{said} ({len(came)} of {len(times)} seeds)"


def search_table(rows: list[dict]) -> str:
    """Return what was tried, each with its validation accuracy; the best of a row is bold."""
    lines = [[row["label"], ", ".join(shown(row, *found) for found in row["search"])] for row in rows]
    return "## Tried (seed 0, best validation accuracy in %)\n\n" + markdown(["arm", "tried"], lines)


def shown(row: dict, lr: float, alpha: float | None, found: float) -> str:
    """Return one setting that was tried.

    Args:
        row: whose best setting is bold.
        lr: learning rate.
        alpha: share of the probes, or None.
        found: validation accuracy (0..1).
    """
    said = f"{lr:g}" + (f", α {alpha:g}" if alpha else "") + f": {100 * found:.2f}"
    return f"**{said}**" if (lr, alpha) == (row["lr"], row["alpha"]) else said
