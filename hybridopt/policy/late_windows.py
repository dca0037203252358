"""What is too long for a run: windows of a part that is chosen once for all, turns of blocks, falls of density."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..core.contracts import Schedule
from ..core.errors import check_count
from .plan import Entry, Plan
from .treatment import Treatment

__all__ = ["Late", "late_windows", "slow_densities"]

END = 2**31  # steps, that no run has
HALF = 0.5  # of the way, which a density that changes should go
WINDOWS = 6  # that a run should have, as in benchmarks/finetune


@dataclass(frozen=True)
class Late:
    """Windows that are too long for a run.

    Args:
        gap: steps of a window.
        better: steps with which the run has windows enough.
        why: what goes wrong, in words.
        then: what happens with `better`, in words.
    """

    gap: int
    better: int
    why: str
    then: str

    def __str__(self) -> str:
        """Return the sentence that people are told, with the cure."""
        return f"update_gap={self.gap}: {self.why}; with update_gap={self.better} {self.then}"


def late_windows(plan: Plan, steps: int) -> list[Late]:
    """Return what of a policy does not come to pass in so many steps, each only once.

    Args:
        plan: the policy, resolved on a model.
        steps: of the whole run.
    """
    check_count("", "steps", steps, 1)
    if steps == 1:
        return []  # in which nothing could be chosen anew
    split: dict[object, list[Entry]] = {}
    for entry in plan.entries:
        if entry.treatment is not None:
            split.setdefault(entry.treatment.split, []).append(entry)
    found = [late for entries in split.values() for late in _of_split(plan, entries, steps)]
    return list(dict.fromkeys([*found, *_of_sources(plan, steps)]))


def slow_densities(plan: Plan, steps: int) -> list[str]:
    """Return sentences on densities that change too slowly to be anywhere near their end after so many steps.

    Args:
        plan: the policy, resolved on a model.
        steps: of the whole run.
    """
    check_count("", "steps", steps, 1)
    found = []
    for density in dict.fromkeys(treatment.split.density for treatment in plan.trained.values()):
        if callable(density) and Schedule in type(density).__mro__:  # functions may not like steps that no run has
            start, now, end = (density(step) for step in (0, steps, END))
            if abs(now - start) < HALF * abs(end - start):
                why = f"in {steps:,} steps it goes from {start:.3g} to {now:.3g} only, not to {end:.3g}"
                found.append(f"density={density!r}: {why}; give the schedule the steps of the run")
    return found


def _of_split(plan: Plan, entries: list[Entry], steps: int) -> Iterator[Late]:
    """Yield what is late of parameters that share a split."""
    treatment = entries[0].treatment
    assert treatment is not None
    gap = treatment.split.update_gap
    if not gap or treatment.tag != "split":
        return
    if not treatment.split.by_turns:
        if gap >= steps:
            yield _once(gap, steps, _unchanged(treatment, plan.seed, entries, steps))
        return
    windows, waiting, needed = math.ceil(steps / gap), entries, 0
    late: list[Entry] = []
    while waiting and needed <= len(entries):  # in every window one block has its turn, or more
        waiting = [entry for entry in waiting if plan.job(entry, needed).part.empty]
        needed += 1
        late = waiting if needed == windows else late
    if late:
        rest = "stand still" if treatment.free.idle else "are trained without state alone"
        why = f"after {steps:,} steps {len(late)} of {len(entries)} tensors have had no turn: they {rest}"
        yield Late(gap, max(1, steps // needed), why, f"{'all have one' if steps >= needed else 'more have one'}")


def _unchanged(treatment: Treatment, seed: int, entries: list[Entry], steps: int) -> str:
    """Return what never changes, or seldom: where windows begin at different steps, the first ones are shorter."""
    aheads = [treatment.split.ahead(seed, entry.param.name) for entry in entries]
    twice = sum(treatment.split.window(steps - 1, ahead) > 0 for ahead in aheads)
    if not twice:
        return "the state-full part is chosen once, and never changes"
    return f"the state-full part is chosen once, and once more in {twice} of {len(entries)} tensors"


def _of_sources(plan: Plan, steps: int) -> Iterator[Late]:
    """Yield what is late of subspaces that directions of probes are drawn in."""
    for treatment in plan.trained.values():
        gap = treatment.source.update_gap
        if gap >= steps:
            yield _once(gap, steps, "all directions lie in one subspace")


def _once(gap: int, steps: int, what: str) -> Late:
    better = max(1, steps // WINDOWS)
    return Late(gap, better, f"in {steps:,} steps {what}", f"it is chosen {math.ceil(steps / better)} times")
