"""From traces of two models of few layers to that of all layers: everything is linear in their number."""

from collections.abc import Iterator
from dataclasses import replace

from .rhythm import Rhythm
from .simulate import Trace
from .tracker import Moment

__all__ = ["extrapolate"]

UNIFORM = Rhythm()
KINDS = ("forward", "backward")
Stages = dict[tuple, list[Moment]]


def extrapolate(short: Trace, long: Trace, depth: int, rhythm: Rhythm = UNIFORM) -> Trace | None:
    """The trace of `depth` layers from those of the two numbers that `rhythm.short` names.

    Each amount is linear in the number of layers, and along layers of a kind between the ends. None if the two traces
    do not correspond, moment by moment: then only the whole model tells.
    """
    ends = _ends(_stages(short), _stages(long), rhythm, depth)
    if ends is None or short.path != long.path:
        return None
    moments: list[Moment] = []
    for stage in _order(depth):
        found = ends[stage] if stage in ends else _between(ends, stage, depth, rhythm)
        moments += (_renamed(m, stage, short.path) for m in found)
    return Trace(tuple(moments), depth, short.path)


def _stages(trace) -> Stages:
    found: Stages = {}
    for moment in trace.moments:
        found.setdefault(moment.stage, []).append(moment)
    return found


def _ends(short, long, rhythm, depth) -> Stages | None:
    """The stages outside of layers, and those of the first layers and the last."""
    one, other = rhythm.short(depth)
    share, found = (depth - one) / (other - one), {}
    for stage, (a, b) in _sources(rhythm, depth).items():
        if len(short.get(a, ())) != len(long.get(b, ())):
            return None
        found[stage] = [_mixed(x, y, share) for x, y in zip(short.get(a, ()), long.get(b, ()), strict=True)]
    turns = [rhythm.between(i, depth) for i in range(rhythm.period)]
    alike = all(len(found[kind, i]) == len(found[kind, j]) for kind in KINDS for i, j in turns)
    return found if alike else None


def _sources(rhythm, depth) -> dict[tuple, tuple]:
    """For the stages of the whole model at both ends those of the short and of the long one that they follow from."""
    one, other = rhythm.short(depth)
    found = {(name,): ((name,), (name,)) for name in ("start", "head", "end")}
    for kind in KINDS:
        found |= {(kind, i): ((kind, i), (kind, i)) for i in range(rhythm.beginning)}
        found |= {(kind, depth - i): ((kind, one - i), (kind, other - i)) for i in range(1, rhythm.period + 1)}
    return found


def _between(ends, stage, depth, rhythm) -> list[Moment]:
    """A layer between the first turn and the last."""
    kind, layer = stage
    first, last = rhythm.between(layer, depth)
    share = (layer - first) / (last - first)
    return [_mixed(a, b, share) for a, b in zip(ends[kind, first], ends[kind, last], strict=True)]


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
