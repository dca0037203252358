"""What a log says of parameters, as a run that can be replayed, and whether it is true."""

from collections.abc import Sequence
from dataclasses import replace

from ...model.checksums import checksum
from ...optimizer.probing.follow import Followed, head
from ...optimizer.probing.log import Log
from .steps import replay_
from .trajectory import Endpoints, Group, Trajectory

__all__ = ["holds", "trajectory"]

TRIALS = 20_000  # updates of a few elements, some seconds


def trajectory(log: Log, followed: Sequence[Followed]) -> Trajectory:
    """The run of these parameters, as they are now."""
    groups, columns = [], []
    for column, key in enumerate(log.groups):
        own = [f for f in followed if f.group == key]
        if own:
            traces = {f.name: _trace(log, f) for f in own}
            groups.append(Group(own[0].treatment, own[0].seed, own[0].population, traces))
            columns += [2 * column, 2 * column + 1]
    numbers = log.numbers
    return Trajectory(numbers["slopes"], numbers["rates"][:, columns], numbers["counts"], tuple(groups))


def holds(run: Trajectory, log: Log, followed: Sequence[Followed]) -> bool:
    """Do the first elements of parameters follow from it? Writing through `.data` goes unnoticed until here.

    Looks at as many parameters as time allows, at one at least.
    """
    step = max(1, len(followed) * len(run) // TRIALS)
    return all(_follows(run, log, f) for f in followed[::step])


def _follows(run, log, f):
    x, group = log.heads[f.name].clone(), run.group(f.name)
    trace = replace(group.traces[f.name], seen=tuple(x.shape))
    replay_(x, f.name, replace(group, traces={f.name: trace}), run.moves(f.name), compile=False)
    return checksum(x) == checksum(head(f.p, f.seen))


def _trace(log, f):
    return Endpoints(tuple(f.p.shape), f.seen, f.p.dtype, log.origin[f.name], checksum(f.p))
