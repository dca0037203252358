"""The records of the Addax runs, and what the search for learning rate and alpha reads in them."""

from pathlib import Path

from ..shared.ladder import rung
from ..shared.records import Records
from .arms import Arm, Setting

Runs = dict[tuple[Setting, int], dict]  # records by setting and seed
Tried = dict[Setting, tuple[float, float]]  # quality by setting


def records_at(path: Path) -> Records:
    """Return the records that lie in a file: a run of an arm, a setting and a seed each."""
    return Records(path, ("arm", "lr", "alpha", "seed"))


def runs_of(records: Records, name: str) -> Runs:
    """Return every record of one arm, by setting and seed."""
    found = [record for record in records.all() if record["arm"] == name]
    order = sorted(found, key=lambda r: (r["lr"], r["alpha"] or 0, r["seed"]))
    return {(Setting(record["lr"], record["alpha"]), record["seed"]): record for record in order}


def quality(found: dict) -> tuple[float, float]:
    """Return what weights and settings are chosen by: validation accuracy, then the lower loss."""
    return found["accuracy"], -found["loss"]


def tried(runs: Runs) -> Tried:
    """Return the quality on validation by setting, with seed 0."""
    return {setting: quality(record["validation"]) for (setting, seed), record in runs.items() if seed == 0}


def choice(found: Tried) -> Setting:
    """Return the setting that did best; the first of equals."""
    return max(found, key=lambda setting: found[setting])


def next_settings(arm: Arm, found: Tried, tries: int) -> list[Setting]:
    """Return the settings to try next.

    First learning rates around the centre, then beyond the best while it is the outermost, then alpha in the same
    way; at last learning rates halfway to the neighbours of the best.

    Args:
        arm: whose settings.
        found: what was tried so far.
        tries: how many settings are tried in all.
    """
    first = [Setting(rung(arm.centre, up), arm.alpha) for up in (0, -1, 1)][:tries]
    if missing := [setting for setting in first if setting not in found]:
        return missing
    if len(found) >= tries:
        return []
    best = choice(found)
    rates = [setting.lr for setting in found]
    alphas = [setting.alpha for setting in found if setting.lr == best.lr and setting.alpha is not None]
    lr, alpha = beyond(rates, best.lr), best.alpha and beyond(alphas, best.alpha)
    if lr and lr not in rates:
        return [best._replace(lr=lr)]
    return [best._replace(alpha=alpha)] if alpha else [best._replace(lr=halfway(rates, best.lr))]


def beyond(values: list[float], best: float) -> float | None:
    """Return one place further on the ladder 1, 3, 10 ... where the best is the highest or lowest; else None."""
    if best == max(values):
        return rung(best, 1)
    return rung(best, -1) if best == min(values) else None


def halfway(values: list[float], best: float) -> float:
    """Return the geometric mean of the best and a neighbour not yet halved: the upper one first."""
    ladder = sorted(values)
    place = ladder.index(best)
    gaps = [(ladder[place + 1], best), (best, ladder[place - 1])]
    high, low = max(gaps, key=lambda gap: gap[0] / gap[1])
    return float(f"{(high * low) ** 0.5:.1e}")
