"""What of a step is spent within the backends, and what beside them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from hybridopt.optimizer import repeated_updates, updates

ENTRIES = ((updates, "run"), (updates, "run_estimated"), (repeated_updates._CrewStep, "run"))  # of the backends
Clock = Callable[[], float]


@dataclass(frozen=True)
class Spent:
    """What a step took by some clock: in all, and of it outside the backends."""

    total: float
    outside: float


@dataclass
class Inside:
    """What was spent within the backends so far, and how often they were entered."""

    spent: float = 0.0
    entered: int = 0


def measured(step: Callable[[], object], clock: Clock) -> Spent:
    """Take one step, and return what it took by a clock, which may count seconds or anything else that grows.

    Raises:
        RuntimeError: the step entered no backend, so that nothing could be told apart.
    """
    with watched(clock) as inside:
        start = clock()
        step()
        total = clock() - start
    if not inside.entered:
        raise RuntimeError(f"the step entered no backend by {' or '.join(f'{x.__name__}.{n}' for x, n in ENTRIES)}")
    return Spent(total, total - inside.spent)


@contextmanager
def watched(clock: Clock) -> Iterator[Inside]:
    """Sum up what the clock shows within the backends."""
    inside = Inside()
    with ExitStack() as stack:
        for owner, name in ENTRIES:
            stack.enter_context(patch.object(owner, name, _within(getattr(owner, name), clock, inside)))
        yield inside


def _within(entry: Callable, clock: Clock, inside: Inside) -> Callable:
    def timed(tasks, *rest):
        tasks = list(tasks) if isinstance(tasks, Iterator) else tasks  # to make them is bookkeeping
        start = clock()
        try:
            return entry(tasks, *rest)
        finally:
            inside.spent += clock() - start
            inside.entered += 1

    return timed
