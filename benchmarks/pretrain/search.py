"""The records of the pre-training runs, and what the search for a learning rate reads in them."""

from pathlib import Path

from ..shared.ladder import rung
from ..shared.records import Records
from .methods import Method

Runs = dict[tuple[float, int], dict]  # records by learning rate and seed
MOST = 4  # learning rates tried beyond the first ones, while the best is the outermost


def records_at(path: Path) -> Records:
    """Return the records that lie in a file: a run of a method, a learning rate and a seed each."""
    return Records(path, ("method", "lr", "seed"))


def runs_of(records: Records, name: str) -> Runs:
    """Return every record of one method."""
    found = [record for record in records.all() if record["method"] == name]
    return {(record["lr"], record["seed"]): record for record in sorted(found, key=lambda r: (r["lr"], r["seed"]))}


def tried(runs: Runs) -> dict[float, float]:
    """Return validation loss by learning rate, with seed 0; infinite where training diverged."""
    return {lr: quality(record) for (lr, seed), record in sorted(runs.items()) if seed == 0}


def quality(record: dict) -> float:
    """Return the validation loss, infinite where training diverged."""
    loss = record["validation_loss"]
    return float("inf") if loss is None else loss


def best(losses: dict[float, float]) -> float:
    """Return the learning rate that did best; the lowest of equals."""
    return min(losses, key=lambda lr: (losses[lr], lr))


def at_edge(losses: dict[float, float]) -> bool:
    """Tell whether the best learning rate is the lowest or the highest tried."""
    return best(losses) in (min(losses), max(losses))


def next_rates(method: Method, losses: dict[float, float], tries: int) -> list[float]:
    """Return the learning rates to try next: the first ones, then one beyond the best while it is the outermost.

    Args:
        method: says where the search starts.
        losses: of the learning rates tried so far.
        tries: how many are tried first.
    """
    if first := [lr for lr in method.rates(tries) if lr not in losses]:
        return first
    if tries == 1 or not at_edge(losses) or len(losses) >= tries + MOST:
        return []
    return [rung(min(losses), -1) if best(losses) == min(losses) else rung(max(losses), 1)]
