"""The rows to be measured: a method in a study, a study being a budget and the methods that are worth it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..shared.ladder import rung
from .budget import MAIN, SIZES, Budget
from .methods import DECISIVE, Method
from .search import Found, Place, Plan, best, full

__all__ = ["FIRST", "STUDIES", "Row", "Study", "rows"]

FACTORS = (4.0, 1.0, 10.0)
FIRST = 10  # rows of the main table that come before all other studies


@dataclass(frozen=True)
class Study:
    """A question: a budget, the methods it is asked of (none: all), and which study's choice its rates start from.

    after: study whose learning rate and factor are taken over; the rates beside it are tried, the factor is not.
    closer: methods so close to a bound that they are run with the seeds `more`, too.
    """

    title: str
    budget: Budget
    methods: tuple[str, ...] = ()
    after: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    closer: tuple[str, ...] = ()
    more: tuple[int, ...] = (3, 4)

    def seeds_of(self, method: str) -> tuple[int, ...]:
        """Return the seeds of a method's full runs at its best rate; the first is the search's, too."""
        return self.seeds + self.more if method in self.closer else self.seeds


CLOSER = (*DECISIVE, "frugal-sinkhorn", "frugal-0-sinkhorn")
AT_QUARTER = replace(MAIN, short=0.25)
STUDIES = {
    "main": Study("1 M parameters, 1,024 tokens a step", MAIN, closer=CLOSER),
    "2m": Study("2 M parameters, 1,024 tokens a step", SIZES["2m"], DECISIVE, "main"),
    "4k": Study("1 M parameters, 4,096 tokens a step", replace(AT_QUARTER, batch=32), DECISIVE, "main"),
    "8m": Study("8 M parameters, 1,024 tokens a step", SIZES["8m"], DECISIVE, "2m"),
    "16k": Study(
        "1 M parameters, 16,384 tokens a step, four times the tokens",
        replace(AT_QUARTER, batch=128, tokens=4_096_000),
        DECISIVE,
        "4k",
    ),
    "60m": Study("LLaMA-60M, 16,384 tokens a step, on a GPU", SIZES["60m"], DECISIVE, seeds=(0, 1)),
}


@dataclass(frozen=True)
class Row:
    """A method in a study.

    brackets: full runs that confirm the rate, at most. at: learning rate and factor of all runs, where none is to be
    searched.
    """

    study: str
    name: str
    method: Method
    budget: Budget
    seeds: tuple[int, ...] = (0, 1, 2)
    brackets: int = 3
    at: Place | None = None

    @property
    def key(self) -> str:
        """Return what tells it from other rows."""
        return f"{self.study}/{self.name}"

    def settings(self, steps: int) -> dict:
        """Return everything besides the cell that decides a run, as JSON has it."""
        return self.budget.shared() | {"options": self.method.settings(self.budget.update_gap(steps))}

    def plan(self, found: Mapping[str, Found]) -> Plan | None:
        """Return how its rate is found; None while the study that it starts from has no choice yet.

        Args:
            found: losses of the runs so far, by row.
        """
        if self.at is not None:
            (rate, factor), length = self.at, self.budget.full_steps
            return Plan((rate,), (factor,), length, length, self.seeds, beyond=0, brackets=0)
        steps = (self.budget.short_steps, self.budget.full_steps)
        if (after := STUDIES[self.study].after) is None:
            return Plan(self.method.rates(4), FACTORS, *steps, self.seeds, brackets=self.brackets)
        older = Row(after, self.name, self.method, STUDIES[after].budget)
        if (plan := older.plan(found)) is None:
            return None
        if (chosen := best(full(found.get(older.key, {}), plan))) is None:
            return None
        rates = tuple(rung(chosen[0], up) for up in (-1, 0, 1))
        return Plan(rates, chosen[1:], *steps, self.seeds, beyond=1, brackets=self.brackets)


def rows(
    methods: Mapping[str, Method], studies: Sequence[str], budgets: Mapping[str, Budget], **changes: Any
) -> dict[str, Row]:
    """Return rows by key, in the order in which they are measured: the first of the main table come first.

    Args:
        methods: by name, in order.
        studies: names of those that are asked for.
        budgets: in place of a study's own.
        **changes: fields of all rows, such as their seeds.
    """
    made = [
        replace(Row(study, name, method, budgets.get(study, asked.budget), asked.seeds_of(name)), **changes)
        for study, asked in ((study, STUDIES[study]) for study in studies)
        for name, method in methods.items()
        if not asked.methods or name in asked.methods
    ]
    late = [row for row in made if row.study == "main"][FIRST:]
    early = [row for row in made if row not in late and row.study in ("main", "2m", "4k")]
    ordered = early + late + [row for row in made if row not in late and row not in early]
    return {row.key: row for row in ordered}
