"""The records of the SST-2 runs, and what the search for a learning rate reads in them."""

from pathlib import Path

from ..shared.records import Records


def records_at(path: Path) -> Records:
    """Return the records that lie in a file: a run of a method, a learning rate and a seed each."""
    return Records(path, ("method", "lr", "seed"))


def runs_of(records: Records, name: str) -> list[dict]:
    """Return every record of one method, by learning rate and seed."""
    found = [record for record in records.all() if record["method"] == name]
    return sorted(found, key=lambda record: (record["lr"], record["seed"]))


def quality(record: dict) -> tuple[float, float]:
    """Return what a learning rate is chosen by: validation accuracy, then the lower validation loss."""
    return record["validation"]["accuracy"], -record["validation"]["loss"]


def chosen_lr(records: Records, name: str) -> float:
    """Return the learning rate that did best on validation with seed 0."""
    return max((record for record in runs_of(records, name) if record["seed"] == 0), key=quality)["lr"]


def next_lr(tried: dict[float, tuple[float, float]]) -> float:
    """Return the rate to try next: beyond the best one if it is the outermost, else between it and its better side."""
    ladder = sorted(tried)
    best = ladder.index(max(tried, key=tried.get))
    if best == 0:
        return rounded(ladder[0] / 10**0.5)
    if best == len(ladder) - 1:
        return rounded(ladder[-1] * 10**0.5)
    beside = max(ladder[best - 1], ladder[best + 1], key=tried.get)
    return rounded((ladder[best] * beside) ** 0.5)


def rounded(lr: float) -> float:
    """Return a learning rate with two significant digits."""
    return float(f"{lr:.1e}")
