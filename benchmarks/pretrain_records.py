"""The records of the pre-training runs, and what the search for a learning rate reads in them."""

import json
from pathlib import Path

from pretrain_methods import Method, rung

Runs = dict[tuple[float, int], dict]  # records by learning rate and seed
MOST = 4  # learning rates tried beyond the first ones, while the best is the outermost


def record_path(folder: Path, name: str, lr: float, seed: int) -> Path:
    """Where the record of one run lies."""
    return folder / f"{name}_lr{lr:g}_seed{seed}.json"


def runs_of(folder: Path, name: str) -> Runs:
    """Every record of one method."""
    found = [json.loads(path.read_text()) for path in folder.glob(f"{name}_lr*_seed*.json")]
    return {(record["lr"], record["seed"]): record for record in sorted(found, key=lambda r: (r["lr"], r["seed"]))}


def tried(runs: Runs) -> dict[float, float]:
    """Validation loss by learning rate, with seed 0; infinite where training diverged."""
    return {lr: quality(record) for (lr, seed), record in sorted(runs.items()) if seed == 0}


def quality(record: dict) -> float:
    loss = record["validation_loss"]
    return float("inf") if loss is None else loss


def best(losses: dict[float, float]) -> float:
    """The learning rate that did best; the lowest of equals."""
    return min(losses, key=lambda lr: (losses[lr], lr))


def at_edge(losses: dict[float, float]) -> bool:
    """Is the best learning rate the lowest or the highest tried?"""
    return best(losses) in (min(losses), max(losses))


def next_rates(method: Method, losses: dict[float, float], tries: int) -> list[float]:
    """The learning rates to try next: the first ones, then one beyond the best while it is the outermost."""
    if first := [lr for lr in method.rates(tries) if lr not in losses]:
        return first
    if tries == 1 or not at_edge(losses) or len(losses) >= tries + MOST:
        return []
    return [rung(min(losses), -1) if best(losses) == min(losses) else rung(max(losses), 1)]
