"""What treatments multiply the learning rate by, role by role."""

from collections.abc import Iterable

from .plan import Entry
from .treatment import Treatment

__all__ = ["lr_factors"]


def lr_factors(entries: Iterable[Entry]) -> dict[str, tuple[float, ...]]:
    """Return what the learning rate of each role is multiplied by, where that is not 1 alone: {"head": (4.0,)}.

    A role has several factors where its parameters differ, or where the state-free part of its weights has its own.
    """
    found: dict[str, set[float]] = {}
    for entry in entries:
        if entry.treatment is not None:
            found.setdefault(entry.param.role, set()).update(_factors(entry.treatment))
    return {role: tuple(sorted(factors)) for role, factors in found.items() if factors != {1.0}}


def _factors(treatment: Treatment) -> set[float]:
    """Return the factors of the parts that have a rule at work."""
    free = treatment.lr_scale * treatment.free_lr_scale
    return {
        "state-full": {treatment.lr_scale},
        "state-free": {free},
        "split": {treatment.lr_scale} | (set() if treatment.free.idle else {free}),
    }[treatment.tag]
