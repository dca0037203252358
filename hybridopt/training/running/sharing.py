"""Share the examples of a step among another number of processes than before."""

from dataclasses import replace
from shlex import quote

from ...core.errors import HybridOptError
from ...core.launch_environment import launched
from ..config.run import Run
from .run_folder import Place

__all__ = ["shared_by", "sharing_told"]


def shared_by(now: int, asked: Run, before: Run, place: Place) -> Run:
    """Return the run that began, with a batch and passes of a step by which it goes on with the same examples.

    What is asked for is taken if it makes steps of as many examples. Otherwise the batch stays as large as that goes.

    Args:
        now: processes that go on.
        asked: what is asked for now.
        before: what the run began with.
        place: of the run, which notes how many processes there were.

    Raises:
        HybridOptError: so many processes cannot all take as many of the examples of a step.
    """
    if _examples(asked, now) == (examples := _examples(before, then := _began_with(place))):
        return _with(before, asked.train.batch, asked.train.accumulate)
    if now == then:
        return before
    if examples % now:
        fit = [str(n) for n in range(1, 2 * max(now, then) + 1) if examples % n == 0]
        raise HybridOptError(
            f"--resume: there are {now} processes now, which cannot share the {examples} examples of a step evenly "
            f"({_told(before, then)} when the run began: {place.run}); start {' or '.join(fit)}: "
            f"{launched(then)} train {quote(str(place.run))} --resume, or start another run: -o OUT"
        )
    each = examples // now
    batch = next(n for n in range(before.train.batch, 0, -1) if each % n == 0)
    return _with(before, batch, each // batch)


def sharing_told(run: Run, now: int, place: Place) -> list[str]:
    """Return a line that says how the examples of a step are shared, if not as when the run began.

    Args:
        run: that goes on.
        now: processes that go on.
        place: of the run.
    """
    before, then = place.before[0], _began_with(place)
    if (now, run.train.batch, run.train.accumulate) == (then, before.train.batch, before.train.accumulate):
        return []
    old, new = (_told(each, count) for each, count in ((before, then), (run, now)))
    return [f"--resume: a step takes the same examples by {new}, before by {old}; the last digits may differ"]


def _began_with(place: Place) -> int:
    return int(place.before[1].get("processes", 1))


def _examples(run: Run, processes: int) -> int:
    return run.train.batch * run.train.accumulate * processes


def _with(run: Run, batch: int, accumulate: int) -> Run:
    return replace(run, train=replace(run.train, batch=batch, accumulate=accumulate))


def _told(run: Run, processes: int) -> str:
    count = "1 process" if processes == 1 else f"{processes} processes"
    return f"batch {run.train.batch} x accumulate {run.train.accumulate} x {count}"
