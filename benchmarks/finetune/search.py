"""The records of the fine-tuning runs, and what the search for a learning rate reads in them."""

from dataclasses import dataclass
from pathlib import Path

from ..shared.ladder import rung
from ..shared.records import Records

MOST = 5  # learning rates tried beyond the first three, while the best is the outermost


@dataclass(frozen=True)
class Row:
    """A row of a table: which method, how, on which task."""

    task: str
    mode: str
    method: str

    def __str__(self) -> str:
        return f"{self.task}/{self.mode}/{self.method}"


def records_at(path: Path) -> Records:
    """Return the records that lie in a file."""
    return Records(path, ("task", "mode", "method", "lr", "seed"))


def by_row(records: list[dict]) -> dict[Row, list[dict]]:
    """Return the records of every row that has some, by learning rate and seed."""
    found: dict[Row, list[dict]] = {}
    for record in sorted(records, key=lambda record: (record["lr"], record["seed"])):
        found.setdefault(Row(record["task"], record["mode"], record["method"]), []).append(record)
    return found


def quality(record: dict, accuracy: bool) -> tuple[float, float]:
    """Return what a learning rate is chosen by: accuracy on validation if it counts, then the lower loss.

    Args:
        record: of a run; one that diverged is worse than any.
        accuracy: does it count?
    """
    said = record["validation"]
    if said is None:
        return float("-inf"), float("-inf")
    return (said["accuracy"] if accuracy else 0.0), -said["loss"]


def tried(runs: list[dict], accuracy: bool) -> dict[float, tuple[float, float]]:
    """Return the quality of every learning rate that was tried with seed 0."""
    return {record["lr"]: quality(record, accuracy) for record in runs if record["seed"] == 0}


def best(found: dict[float, tuple[float, float]]) -> float:
    """Return the learning rate that did best; the lowest of equals."""
    return max(sorted(found), key=lambda lr: found[lr])


def at_edge(found: dict[float, tuple[float, float]]) -> bool:
    """Tell whether the best learning rate is the lowest or the highest tried."""
    return best(found) in (min(found), max(found))


def next_rates(centre: float, found: dict[float, tuple[float, float]]) -> list[float]:
    """Return the learning rates to try next: three a factor of three apart, then one beyond the best at the edge.

    Args:
        centre: the middle of the first three.
        found: what was tried so far.
    """
    if len(found) < 3:
        return [lr for lr in (rung(centre, up) for up in (-1, 0, 1)) if lr not in found]
    if not at_edge(found) or len(found) >= 3 + MOST:
        return []
    return [rung(min(found), -1) if best(found) == min(found) else rung(max(found), 1)]
