"""The records of the Addax runs, and what the search for learning rate and alpha reads in them."""

import json
from pathlib import Path

from addax_arms import Arm, Setting
from addax_train import quality
from pretrain_methods import rung

Runs = dict[tuple[Setting, int], dict]  # records by setting and seed
Tried = dict[Setting, tuple[float, float]]  # quality by setting


def record_path(folder: Path, name: str, setting: Setting, seed: int) -> Path:
    """Where the record of one run lies."""
    alpha = "" if setting.alpha is None else f"_alpha{setting.alpha:g}"
    return folder / f"{name}_lr{setting.lr:g}{alpha}_seed{seed}.json"


def runs_of(folder: Path, name: str) -> Runs:
    """Every record of one arm, by setting and seed."""
    found = [json.loads(path.read_text()) for path in folder.glob(f"{name}_lr*_seed*.json")]
    order = sorted(found, key=lambda r: (r["lr"], r["alpha"] or 0, r["seed"]))
    return {(Setting(record["lr"], record["alpha"]), record["seed"]): record for record in order}


def tried(runs: Runs) -> Tried:
    """Quality on validation by setting, with seed 0."""
    return {setting: quality(record["validation"]) for (setting, seed), record in runs.items() if seed == 0}


def choice(found: Tried) -> Setting:
    """The setting that did best; the first of equals."""
    return max(found, key=found.get)


def next_settings(arm: Arm, found: Tried, tries: int) -> list[Setting]:
    """The settings to try next, `tries` in all: learning rates around the centre, beyond the best while it is
    the outermost, then alpha in the same way; at last learning rates halfway to the neighbours of the best.
    """
    first = [Setting(rung(arm.centre, up), arm.alpha) for up in (0, -1, 1)][:tries]
    if missing := [setting for setting in first if setting not in found]:
        return missing
    if len(found) >= tries:
        return []
    best = choice(found)
    rates = [setting.lr for setting in found]
    alphas = [setting.alpha for setting in found if setting.lr == best.lr]
    lr, alpha = beyond(rates, best.lr), best.alpha and beyond(alphas, best.alpha)
    if lr and lr not in rates:
        return [best._replace(lr=lr)]
    return [best._replace(alpha=alpha)] if alpha else [best._replace(lr=halfway(rates, best.lr))]


def beyond(values: list[float], best: float) -> float | None:
    """One place further on the ladder 1, 3, 10 ... where the best is the highest or lowest; else None."""
    if best == max(values):
        return rung(best, 1)
    return rung(best, -1) if best == min(values) else None


def halfway(values: list[float], best: float) -> float:
    """The geometric mean of the best and a neighbour not yet halved: the upper one first."""
    ladder = sorted(values)
    place = ladder.index(best)
    gaps = [(ladder[place + 1], best), (best, ladder[place - 1])]
    high, low = max(gaps, key=lambda gap: gap[0] / gap[1])
    return float(f"{(high * low) ** 0.5:.1e}")
