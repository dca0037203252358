"""From traces of a model of two and of four layers to that of all its layers: everything is linear in their number."""

from collections.abc import Iterator
from dataclasses import replace

from .simulate import Trace
from .tracker import Moment

__all__ = ["SHORT", "extrapolate"]

SHORT = (2, 4)  # layers that are simulated

Stages = dict[tuple, list[Moment]]


def extrapolate(two: Trace, four: Trace, depth: int) -> Trace | None:
    """The trace of `depth` layers, each amount linear in the number of layers, and along the layers between the ends.

    None if the two traces do not correspond, moment by moment: then only the whole model tells.
    """
    a, b = _stages(two), _stages(four)
    if any(len(a[one]) != len(b[other]) for one, other in _pairs() if one in a or other in b):
        return None
    ends = {key: _line(a[one], b[other], depth) for key, (one, other) in _targets(depth).items() if one in a}
    moments: list[Moment] = []
    for stage in _order(depth):
        found = ends.get(stage) or _between(ends, stage, depth)
        moments += (_renamed(m, stage, two.path) for m in found)
    return Trace(tuple(moments), depth, two.path)


def _stages(trace) -> Stages:
    found: Stages = {}
    for moment in trace.moments:
        found.setdefault(moment.stage, []).append(moment)
    return found


def _pairs() -> list[tuple]:
    """Stages of two and of four layers that correspond."""
    ends = [((kind, 0), (kind, 0)) for kind in ("forward", "backward")]
    ends += [((kind, 1), (kind, i)) for kind in ("forward", "backward") for i in (1, 3)]
    return [*ends, *(((name,), (name,)) for name in ("start", "head", "end"))]


def _targets(depth) -> dict[tuple, tuple]:
    """For the stages of the whole model those of two and of four layers from which they follow."""
    found = {(name,): ((name,), (name,)) for name in ("start", "head", "end")}
    for kind in ("forward", "backward"):
        found |= {(kind, 0): ((kind, 0), (kind, 0)), (kind, 1): ((kind, 1), (kind, 1))}
        found |= {(kind, depth - 1): ((kind, 1), (kind, 3))}
    return found


def _line(two, four, depth) -> list[Moment]:
    """Each moment as a line through two points."""
    return [_mixed(a, b, (depth - SHORT[0]) / (SHORT[1] - SHORT[0])) for a, b in zip(two, four, strict=True)]


def _between(ends, stage, depth) -> list[Moment]:
    """A layer between the second and the last."""
    kind, *rest = stage
    if not rest or (kind, 1) not in ends:
        return []
    share = (rest[0] - 1) / (depth - 2)
    return [_mixed(a, b, share) for a, b in zip(ends[kind, 1], ends[kind, depth - 1], strict=True)]


def _mixed(a: Moment, b: Moment, share: float) -> Moment:
    def at(x, y):
        return x + (y - x) * share

    amounts = {name: at(getattr(a, name), getattr(b, name)) for name in ("forward", "backward", "gradient")}
    return replace(a, **amounts, left=tuple(map(at, a.left, b.left)))


def _order(depth) -> Iterator[tuple]:
    yield ("start",)
    yield from (("forward", i) for i in range(depth))
    yield ("head",)
    yield from (("backward", i) for i in reversed(range(depth)))
    yield ("end",)


def _renamed(moment, stage, path) -> Moment:
    """The parameter of the layer that the stage is about."""
    name, prefix = moment.done, f"{path}."
    if name is not None and len(stage) > 1 and name.startswith(prefix):
        rest = name.removeprefix(prefix).partition(".")[2]
        name = f"{prefix}{stage[1]}.{rest}"
    return replace(moment, stage=stage, done=name)
