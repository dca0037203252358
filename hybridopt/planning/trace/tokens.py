"""Extrapolate traces of few tokens to many, for models that step through tokens in Python, one by one.

Such a model runs as many operations as it has tokens. What is alive after each of them is a polynomial of the number
of tokens: after an operation outside of the loop, after those of its first passes, and of its last ones. In the passes
between these it is never more than at the larger end, as what a loop keeps grows steadily.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from .moments import Event, Moment
from .simulate import Limit, Trace

__all__ = ["POINTS", "traced"]

POINTS = (4, 6, 8, 10)  # tokens: three give a polynomial, the last one shows whether it is right
CHUNKED = 300  # operations for a loss in chunks: it takes half of them
USUAL = 900  # operations for a layer: models that do not step through tokens take fewer, mostly
Aligned = list[list[Event]]  # for each event of the smallest trace the same event of all traces


def traced(
    run: Callable[[int, Limit], Trace], tokens: int, layers: int, steps: bool | None
) -> tuple[Trace, bool | None]:
    """Return the trace of a pass over `tokens`, and whether the model steps through them (None: not known yet).

    Args:
        run: simulates a pass over so many tokens; raises `Limit.Reached` at more operations than a limit has.
        tokens: of the sequence.
        layers: of the model that is run.
        steps: what an earlier call has found.
    """
    if tokens <= POINTS[-1] or steps is False:
        return run(tokens, Limit()), steps
    if steps is None:
        try:
            return run(tokens, Limit(USUAL * (layers + 1) + CHUNKED)), None
        except Limit.Reached:
            pass
    short = [run(n, Limit(recorded=True)) for n in POINTS[: 4 if steps else 2]]
    if short[0].operations == short[1].operations:
        return run(tokens, Limit()), False
    short += [run(n, Limit(recorded=True)) for n in POINTS[len(short) :]]
    return _extrapolated(short, tokens) or run(tokens, Limit()), True


def _extrapolated(traces: Sequence[Trace], tokens: int) -> Trace | None:
    """Return the trace for `tokens` out of those for POINTS; None where it cannot be told."""
    if len({tuple((m.stage, m.done) for m in trace.moments) for trace in traces}) > 1:
        return None
    moments = [_moment(same, tokens) for same in zip(*(trace.moments for trace in traces), strict=True)]
    if None in moments:
        return None
    return replace(traces[0], moments=tuple(m for m in moments if m is not None))


def _moment(same: Sequence[Moment], tokens: int) -> Moment | None:
    aligned = _aligned([m.events for m in same])
    left = [_at([m.left[i] for m in same], tokens) for i in (0, 1)]
    if aligned is None or None in left:
        return None
    top: tuple[float, ...] = (0, 0, 0)
    for events in aligned:
        found = [
            _at(values, tokens) for values in zip(*((e.forward, e.backward, e.gradient) for e in events), strict=True)
        ]
        if None in found:
            return None
        top = max(top, tuple(x for x in found if x is not None), key=lambda x: x[0] + x[1])
    forward, backward, gradient = top
    ends = tuple(x for x in left if x is not None)
    return Moment(same[0].stage, forward, backward, same[0].done, gradient, (ends[0], ends[1]))


def _aligned(lists: Sequence[Sequence[Event]]) -> Aligned | None:
    """Return which events of all lists are the same: from the beginning, from the end, and between two loops."""
    names = [[e.name for e in events] for events in lists]
    least, sizes = min(map(len, names)), list(map(len, names))
    head = _alike(names, least)
    tail = _alike([own[::-1] for own in names], least)
    found = [[events[i] for events in lists] for i in range(head)]
    found += [[events[-1 - i] for events in lists] for i in range(tail)]
    if head + tail >= least:
        return found
    between = names[0][head : least - tail]  # two loops: the middle moves by what the first of them grows
    growth = [(size - least) // (n - POINTS[0]) for size, n in zip(sizes[1:], POINTS[1:], strict=True)]
    for own in range(1, growth[0] + 1):
        starts = [head + own * (n - POINTS[0]) for n in POINTS]
        if all(x[start : start + len(between)] == between for x, start in zip(names, starts, strict=True)):
            middle = [[e[start + i] for e, start in zip(lists, starts, strict=True)] for i in range(len(between))]
            return found + middle
    return None


def _alike(names: Sequence[Sequence[str]], least: int) -> int:
    """Return how many names all lists have in common at their beginning."""
    return next((i for i in range(least) if len({own[i] for own in names}) > 1), least)


def _at(values: Iterable[float], tokens: int) -> float | None:
    """Return the value for `tokens` of the polynomial through those at POINTS; None if the last is not on it."""
    *known, check = values
    *points, last = POINTS
    if abs(_through(points, known, last) - check) > 0.5:
        return None
    return _through(points, known, tokens)


def _through(points: Sequence[int], values: Sequence[float], at: int) -> float:
    """Return the value at `at` of the polynomial of second degree through three values (Newton's form)."""
    (a, b, c), (x, y, z) = points, values
    first, second = (y - x) / (b - a), (z - y) / (c - b)
    return x + (at - a) * (first + (at - b) * (second - first) / (c - a))
