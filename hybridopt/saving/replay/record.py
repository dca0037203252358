"""An optimizer's log as a run that can be replayed, and whether it agrees with the weights."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from ...model.checksums import checksum
from ...optimizer.probing.follow import Followed, head
from ...optimizer.probing.log import Log
from .steps import replay_
from .trajectory import Endpoints, Group, Trajectory

__all__ = ["holds", "trajectory"]

Whole = Callable[[Tensor], Tensor]
TRIALS = 20_000  # updates of a few elements, some seconds


def trajectory(log: Log, followed: Sequence[Followed], whole: Whole) -> Trajectory:
    """Return the run of these parameters, ending with their values now.

    Args:
        log: of the run.
        followed: the parameters.
        whole: returns a tensor, sharded or not, in one piece.
    """
    groups, columns = [], []
    for column, key in enumerate(log.groups):
        own = [f for f in followed if f.group == key]
        if own:
            traces = {f.name: _trace(log, f, whole) for f in own}
            groups.append(Group(own[0].treatment, own[0].seed, own[0].population, traces))
            columns += [2 * column, 2 * column + 1]
    numbers = log.numbers
    return Trajectory(numbers["slopes"], numbers["rates"][:, columns], numbers["counts"], tuple(groups))


def holds(run: Trajectory, log: Log, followed: Sequence[Followed], whole: Whole) -> bool:
    """Return whether the first elements of the parameters follow from the run; writing through `.data` shows here.

    As many parameters are replayed as take some seconds, one at least.

    Args:
        run: what `trajectory` has made of the log.
        log: with the first elements of every parameter as they were when it began.
        followed: the parameters.
        whole: as of `trajectory`.
    """
    step = max(1, len(followed) * len(run) // TRIALS)
    return all(_follows(run, log, f, whole) for f in followed[::step])


def _follows(run, log, f, whole):
    x, group = log.heads[f.name].clone(), run.group(f.name)
    trace = replace(group.traces[f.name], seen=tuple(x.shape))
    replay_(x, f.name, replace(group, traces={f.name: trace}), run.moves(f.name), compile=False)
    return checksum(x) == checksum(head(whole(f.p), f.seen))


def _trace(log, f, whole):
    """Return what a parameter was when the log began, and what it is now."""
    return Endpoints(tuple(f.p.shape), f.seen, f.p.dtype, log.origin[f.name], checksum(whole(f.p)))
