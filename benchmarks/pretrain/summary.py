"""What the records say of a row: where its rate was found, its losses by seed, its bytes, and how far it is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import mean

from ..shared.timing import least
from .bench import losses_of
from .rows import Row
from .search import Cell, Found, Place, Plan, best, edge, full, short, wanted
from .train import cell_of

__all__ = ["Summary", "difference", "summaries"]

STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # 95 % of Student's t are within, by number of values


@dataclass(frozen=True)
class Summary:
    """One row in numbers.

    place: learning rate and factor, of full runs if there is one, else of the search. edge: the rate is the outermost
    that was tried, and nothing speaks against the one beyond. losses: on the reported windows, by seed; None where
    training diverged. search, fulls: losses on the windows for choosing, seed 0. finished: nothing more is wanted.
    confirmed: no full runs at rates beside it are. record: of one run at `place`. told: how many runs of each length.
    """

    row: Row
    place: Place
    edge: bool
    losses: dict[int, float | None]
    search: dict[Place, float]
    fulls: dict[Place, float]
    finished: bool
    confirmed: bool
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
        told = f"unfinished: {len(self.numbers)} of {len(self.row.seeds)} seeds"
        return told if self.confirmed else f"{told}, rate not confirmed"


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
        if plan is not None and mine and (summary := _summary(row, plan, found[key], mine)) is not None:
            made[key] = summary
    return made


def _summary(row: Row, plan: Plan, losses: Found, mine: Mapping[Cell, dict]) -> Summary | None:
    """Return the summary of a row by its records; None where all diverged."""
    searched, ended = short(losses, plan), full(losses, plan)
    if (place := best(ended) or best(searched)) is None:
        return None
    steps = plan.full_steps if ended else plan.short_steps
    chosen = {cell: record for cell, record in mine.items() if (cell.lr, cell.factor, cell.steps) == (*place, steps)}
    return Summary(
        row=row,
        place=place,
        edge=edge(losses, plan),
        losses={cell.seed: one["reporting_loss"] for cell, one in chosen.items()} if ended else {},
        search=searched,
        fulls=ended,
        finished=not wanted(losses, plan),
        confirmed=not any(cell.seed == plan.seeds[0] for cell in wanted(losses, plan)),
        record=next(iter(chosen.values())),
        state_bytes=max(one["state_bytes"] for one in chosen.values()),
        update_seconds=least(list(mine.values()), "update_cpu_seconds_per_step")["mean"],
        step_seconds=least(list(mine.values()), "cpu_seconds_per_step")["median"],
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
