"""Extrapolate the traces of two models of few layers to all layers: every amount is linear in their number."""

from collections.abc import Iterator
from dataclasses import replace

from .layer_pattern import Rhythm
from .moments import Moment, Stage
from .simulate import Trace

__all__ = ["extrapolate", "shortened"]

UNIFORM = Rhythm()
KINDS = ("forward", "backward")
Stages = dict[Stage, list[Moment]]


def extrapolate(short: Trace, long: Trace, depth: int, rhythm: Rhythm = UNIFORM) -> Trace | None:
    """Return the trace of a model of `depth` layers, from those of two models of fewer layers.

    Each amount is linear in the number of layers, and linear along the layers of a kind between the first and the
    last of them.

    Args:
        short: trace of the first number of layers of `rhythm.short(depth)`.
        long: trace of the second number.
        depth: layers of the model to extrapolate to.
        rhythm: the order of kinds of layers; by default all are alike but the first.

    Returns:
        None if the moments of the two traces do not correspond; then the whole model has to be simulated.
    """
    ends = _ends(_stages(short), _stages(long), rhythm, depth)
    if ends is None or short.path != long.path:
        return None
    moments: list[Moment] = []
    for stage in _order(depth):
        found = _between(ends, stage, depth, rhythm) if len(stage) == 2 and stage not in ends else ends[stage]
        moments += (_renamed(m, stage, short.path) for m in found)
    return Trace(tuple(moments), depth, short.path)


def shortened(long: Trace, depth: int, rhythm: Rhythm = UNIFORM) -> Trace:
    """Return the trace of the first number of layers of `rhythm.short(depth)`, from that of the second number.

    What is made outside of layers must not depend on their number: compare with a simulated trace before.

    Args:
        long: trace of the second number of layers.
        depth: layers of the whole model.
        rhythm: the order of kinds of layers.
    """
    one, other = rhythm.short(depth)
    known = _stages(long)
    before = [known["forward", i][-1].left[0] if ("forward", i) in known else 0 for i in (one - 2, other - 2)]
    moments: list[Moment] = []
    for stage in _order(one):
        kind, *layer = stage
        last = bool(layer) and int(layer[0]) == one - 1
        source = (kind, other - 1) if last else stage
        fewer = before[1] - before[0] if last or kind == "head" else 0
        moments += [_renamed(_less(m, fewer), stage, long.path) for m in known.get(source, ())]
    return Trace(tuple(moments), one, long.path, long.operations)


def _less(moment: Moment, fewer: float) -> Moment:
    """Return a moment at which so many bytes less of the forward pass are alive."""
    return replace(moment, forward=moment.forward - fewer, left=(moment.left[0] - fewer, moment.left[1]))


def _stages(trace: Trace) -> Stages:
    found: Stages = {}
    for moment in trace.moments:
        found.setdefault(moment.stage, []).append(moment)
    return found


def _ends(short: Stages, long: Stages, rhythm: Rhythm, depth: int) -> Stages | None:
    """Return the stages outside of layers and those of the first and last layers; None if traces do not correspond."""
    one, other = rhythm.short(depth)
    share, found = (depth - one) / (other - one), Stages()
    for stage, (a, b) in _sources(rhythm, depth).items():
        if len(short.get(a, ())) != len(long.get(b, ())):
            return None
        found[stage] = [_mixed(x, y, share) for x, y in zip(short.get(a, ()), long.get(b, ()), strict=True)]
    turns = [rhythm.between(i, depth) for i in range(rhythm.period)]
    alike = all(len(found[kind, i]) == len(found[kind, j]) for kind in KINDS for i, j in turns)
    return found if alike else None


def _sources(rhythm: Rhythm, depth: int) -> dict[Stage, tuple[Stage, Stage]]:
    """Return, by stage at either end of the whole model, the stages of short and long model to extrapolate from."""
    one, other = rhythm.short(depth)
    found: dict[Stage, tuple[Stage, Stage]] = {(name,): ((name,), (name,)) for name in ("start", "head", "end")}
    for kind in KINDS:
        found |= {(kind, i): ((kind, i), (kind, i)) for i in range(rhythm.beginning)}
        found |= {(kind, depth - i): ((kind, one - i), (kind, other - i)) for i in range(1, rhythm.period + 1)}
    return found


def _between(ends: Stages, stage: tuple[str, int], depth: int, rhythm: Rhythm) -> list[Moment]:
    """Interpolate the moments of a layer between the first turn and the last."""
    kind, layer = stage
    first, last = rhythm.between(layer, depth)
    share = (layer - first) / (last - first)
    return [_mixed(a, b, share) for a, b in zip(ends[kind, first], ends[kind, last], strict=True)]


def _mixed(a: Moment, b: Moment, share: float) -> Moment:
    def at(x: float, y: float) -> float:
        return x + (y - x) * share

    left, gradient = (at(a.left[0], b.left[0]), at(a.left[1], b.left[1])), at(a.gradient, b.gradient)
    return Moment(a.stage, at(a.forward, b.forward), at(a.backward, b.backward), a.done, gradient, left)


def _order(depth: int) -> Iterator[Stage]:
    yield ("start",)
    yield from (("forward", i) for i in range(depth))
    yield ("head",)
    yield from (("backward", i) for i in reversed(range(depth)))
    yield ("end",)


def _renamed(moment: Moment, stage: Stage, path: str) -> Moment:
    """Move a moment to `stage`; a parameter of a layer becomes that of the stage's layer."""
    name, prefix = moment.done, f"{path}."
    if name is not None and len(stage) > 1 and name.startswith(prefix):
        rest = name.removeprefix(prefix).partition(".")[2]
        name = f"{prefix}{stage[1]}.{rest}"
    return replace(moment, stage=stage, done=name)
