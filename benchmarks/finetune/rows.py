"""From records to rows in numbers."""

from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

from .methods import METHODS, MODES, PLAN
from .search import Row, at_edge, best, by_row, tried
from .task import Task


@dataclass(frozen=True)
class Measured:
    """A row with runs at its chosen learning rate.

    row: what it is. lr: chosen. edge: is it the lowest or highest tried? found: quality of every rate tried. runs: at
    the chosen rate by seed, of which none diverged. every: run of the row. accuracy: is it what counts?
    """

    row: Row
    lr: float
    edge: bool
    found: dict[float, tuple[float, float]]
    runs: dict[int, dict]
    every: list[dict]
    accuracy: bool

    @property
    def label(self) -> str:
        """Return the name of the row in tables."""
        return METHODS[self.row.method].label

    @property
    def test(self) -> dict[int, float]:
        """Return what is reported, by seed: accuracy in percent, or the loss in nats."""
        return {seed: reported(run["test"], self.accuracy) for seed, run in self.runs.items()}

    @property
    def state_bytes(self) -> int:
        """Return the most that the optimizer kept between steps."""
        return max(run["state_bytes"] for run in self.runs.values())

    def at(self, lr: float) -> float | None:
        """Return what validation with seed 0 said of a learning rate: percent or nats; None where it diverged."""
        run = next(run for run in self.every if run["lr"] == lr and run["seed"] == 0)
        return reported(run["validation"], self.accuracy) if run["validation"] else None


def reported(said: dict, accuracy: bool) -> float:
    """Return accuracy in percent if it counts, else the loss."""
    return 100 * said["accuracy"] if accuracy else said["loss"]


def measured(records: list[dict], tasks: dict[str, Task]) -> dict[Row, Measured]:
    """Return every row of the plan whose first learning rates were tried, in the plan's order.

    Args:
        records: of all runs.
        tasks: by name.
    """
    there = by_row(records)
    order = {Row(task, mode, name): None for task in tasks for mode in MODES for name in METHODS}
    planned = {Row(task, mode, name) for task, mode, names in PLAN for name in names}
    rows = (row_of(row, there[row], tasks[row.task].accuracy) for row in order if row in planned and row in there)
    return {found.row: found for found in rows if found}


def row_of(row: Row, runs: list[dict], accuracy: bool) -> Measured | None:
    """Return one row; None while fewer than three learning rates were tried, or if all diverged.

    Args:
        row: what it is.
        runs: all of it.
        accuracy: does it count?
    """
    found = tried(runs, accuracy)
    if len(found) < 3 or found[best(found)][0] == float("-inf"):
        return None
    lr = best(found)
    chosen = {run["seed"]: run for run in runs if run["lr"] == lr and run["test"]}
    return Measured(row, lr, at_edge(found), found, chosen, runs, accuracy)


def differences(one: Measured, other: Measured) -> list[float]:
    """Return what is reported of one row minus the other's, seed by seed."""
    return [one.test[seed] - other.test[seed] for seed in one.test if seed in other.test]


def with_error(values: list[float], accuracy: bool, sign: bool = False) -> str:
    """Return the mean with its standard error over seeds, or alone where there is one value.

    Args:
        values: one a seed.
        accuracy: are they percent? Else nats.
        sign: show a plus, too.
    """
    if not values:
        return "–"
    digits = 1 if accuracy else 3
    middle = f"{mean(values):{'+' if sign else ''}.{digits}f}"
    if len(values) == 1:
        return f"{middle} (one seed)"
    return f"{middle} ± {stdev(values) / sqrt(len(values)):.{digits}f}"
