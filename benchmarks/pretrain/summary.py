"""What the records say of a row: where its rate was found, its losses by seed, its bytes, and how far it is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import mean

from ..shared.timing import least
from .bench import losses_of
from .rows import Row
from .search import Cell, Place, at_edge, best, full, short, wanted
from .train import cell_of

__all__ = ["Summary", "difference", "summaries"]

STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # 95 % of Student's t are within, by number of values


@dataclass(frozen=True)
class Summary:
    """One row in numbers.

    place: learning rate and factor, of full runs if there is one, else of the search. edge: no lower or no higher
    rate was tried in full. losses: on the reported windows, by seed; None where training diverged. open: runs that
    are still wanted, None where it is not known how many. records: the runs at `place`.
    """

    row: Row
    place: Place
    edge: bool
    losses: dict[int, float | None]
    search: dict[Place, float]
    fulls: dict[Place, float]
    finished: bool
    record: dict
    state_bytes: int
    update_seconds: float
    step_seconds: float
    told: dict[str, int] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[int, float]:
        """Return the reported losses by seed, without those of runs that diverged."""
        return {seed: loss for seed, loss in sorted(self.losses.items()) if loss is not None}

    @property
    def loss(self) -> float | None:
        """Return the mean reported loss; None before a full run."""
        return mean(self.numbers.values()) if self.numbers else None

    @property
    def stage(self) -> str:
        """Return how far the row is."""
        if self.finished:
            return "finished"
        if not self.fulls:
            return "search only"
        return f"unfinished: {len(self.numbers)} of {len(self.row.seeds)} seeds"


def summaries(records: list[dict], rows: Mapping[str, Row]) -> dict[str, Summary]:
    """Return a summary of every row that has a run which did not diverge, in the order of `rows`.

    Args:
        records: of all runs.
        rows: by key.
    """
    found = losses_of(records)
    made = {}
    for key, row in rows.items():
        mine = {cell_of(r): r for r in records if f"{r['study']}/{r['method']}" == key}
        plan = row.plan(found)
        if plan is None or not mine:
            continue
        losses = found[key]
        searched, ended = short(losses, plan), full(losses, plan)
        if (place := best(ended) or best(searched)) is None:
            continue
        steps = plan.full_steps if ended else plan.short_steps
        chosen = {
            cell: record for cell, record in mine.items() if (cell.lr, cell.factor, cell.steps) == (*place, steps)
        }
        made[key] = _summary(row, place, searched, ended, chosen, list(mine.values()), not wanted(losses, plan))
    return made


def _summary(
    row: Row,
    place: Place,
    searched: dict[Place, float],
    ended: dict[Place, float],
    chosen: Mapping[Cell, dict],
    mine: list[dict],
    finished: bool,
) -> Summary:
    record = next(iter(chosen.values()))
    update = least(mine, "update_cpu_seconds_per_step")["mean"]
    step = least(mine, "cpu_seconds_per_step")["median"]
    return Summary(
        row=row,
        place=place,
        edge=at_edge(ended),
        losses={cell.seed: one["reporting_loss"] for cell, one in chosen.items()} if ended else {},
        search=searched,
        fulls=ended,
        finished=finished,
        record=record,
        state_bytes=max(one["state_bytes"] for one in chosen.values()),
        update_seconds=update,
        step_seconds=step,
        told={"short": len(searched), "full": len(mine) - len(searched)},
    )


def difference(one: Summary, other: Summary) -> tuple[float, float, int]:
    """Return the mean of the paired differences of reported losses, half of its 95 % interval, and how many seeds.

    The half is infinite with less than two seeds; the mean NaN without any.
    """
    pairs = [loss - other.numbers[seed] for seed, loss in one.numbers.items() if seed in other.numbers]
    if not pairs:
        return math.nan, math.inf, 0
    middle = mean(pairs)
    if len(pairs) < 2:
        return middle, math.inf, 1
    deviation = math.sqrt(sum((pair - middle) ** 2 for pair in pairs) / (len(pairs) - 1))
    wide = STUDENT.get(len(pairs), STUDENT[max(STUDENT)]) * deviation / math.sqrt(len(pairs))
    return middle, wide, len(pairs)
