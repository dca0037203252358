"""From the records of the Addax runs to rows in numbers."""

from statistics import median

from ..shared.records import Records
from .arms import ALL
from .search import beyond, choice, runs_of, tried


def rows(records: Records) -> list[dict]:
    """Return one row for every arm that has runs at its best setting."""
    return [row for name in ALL if (row := summary(records, name))]


def summary(records: Records, name: str) -> dict | None:
    """Return one row: every seed of an arm at the setting that did best; None before there are such runs."""
    arm, runs = ALL[name], runs_of(records, name)
    found = tried(runs_of(records, arm.like or name))
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


def kept(row: dict) -> int:
    """Return the bytes of weights, state and what autograd keeps for the backward pass."""
    return row["weight_bytes"] + row["state_bytes"] + row["saved_bytes"]


def memory(row: dict) -> int:
    """Return the bytes of weights, state, and the most that a step takes beside them."""
    return row["weight_bytes"] + row["state_bytes"] + row["step_bytes"]
