"""How many tokens a run can have, if all runs are to end in a given time."""

from dataclasses import replace
from pathlib import Path
from statistics import median

from torch import Tensor

from .budget import Budget
from .rows import Row
from .search import Cell
from .text import batches
from .train import prepared, train

WARM, TIMED = 4, 6  # steps before those that are timed, and of these
SHARE = 0.85  # of the time; the rest is for evaluation, for longer searches and for what comes first
EPOCHS = 3.0  # of the text, at the most
LEAST = 40  # steps


def fitted(rows: dict[str, Row], there: list[dict], seconds: float, data: Path) -> dict[str, Row]:
    """Return the rows with as many tokens a run as the time allows; what has been recorded of a study decides first.

    Args:
        rows: by key.
        there: records so far.
        seconds: for all runs.
        data: folder of the text.
    """
    tokens = {record["study"]: record["settings"]["tokens"] for record in there}
    for study in {row.study for row in rows.values()} - set(tokens):
        mine = [row for row in rows.values() if row.study == study]
        tokens[study] = most(mine[-1], seconds * SHARE / sum(map(full_runs, mine)), data)
    return {key: replace(row, budget=replace(row.budget, tokens=tokens[row.study])) for key, row in rows.items()}


def full_runs(row: Row) -> float:
    """Return how many full runs a row's plan takes as a rule: the search, the seeds, and two beside the best."""
    return len(row.seeds) if row.at else 8 * row.budget.short + len(row.seeds) + 2 * (row.brackets > 0)


def most(row: Row, seconds: float, data: Path) -> int:
    """Return the tokens of a run of so many seconds, by timing a few steps of a row.

    Args:
        row: the one whose steps take longest.
        seconds: of a run.
        data: folder of the text.
    """
    budget, text = row.budget, row.budget.text(data)
    size = budget.batch * budget.sequence
    steps = min(seconds / step_seconds(row, budget, text.train), EPOCHS * text.train.numel() / size)
    return max(LEAST, int(steps)) * size


def step_seconds(row: Row, budget: Budget, windows: Tensor) -> float:
    """Return the median seconds of a step.

    Args:
        row: the method.
        budget: model and batch.
        windows: token ids [count, sequence].
    """
    cell = Cell(row.method.centre, 1.0, 0, WARM + TIMED)
    model, optimizer = prepared(row.method, cell, budget)
    measured = train(model, optimizer, budget, cell.steps, batches(windows, budget.batch, cell.steps, 0))
    return median(step["seconds"] for step in list(measured)[WARM:])
