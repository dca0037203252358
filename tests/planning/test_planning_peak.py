"""How a peak follows from a trace: gradients by release, idle parameters, micro-batches; and traces by depth."""

import gc

import pytest
import torch

from hybridopt.planning.trace.extrapolate import extrapolate
from hybridopt.planning.trace.moments import Moment
from hybridopt.planning.trace.peak import Step, peak
from hybridopt.planning.trace.simulate import Trace
from hybridopt.planning.trace.tracker import Tracker

GRADIENTS = {"a": 10, "b": 20}
TRACE = Trace(
    (
        Moment(("head",), 100, 0),
        Moment(("backward", 0), 90, 15, "b", 20, (50, 25)),
        Moment(("end",), 40, 12, "a", 10, (0, 10)),
        Moment(("end",), 0, 0),
    ),
    1,
)


def at(fused=False, passes=1, idle=(), alone=lambda name: 3, together=lambda: 7, trace=TRACE):
    return peak(trace, Step(GRADIENTS, frozenset(idle), fused, passes, alone, together))


def test_gradients_add_up_until_the_step():
    found = at(together=lambda: 1000)
    assert (found.stage, found.gradients, found.temporaries) == (("update",), 30, 1000)


def test_fused_release_keeps_one_gradient_and_pays_its_update_at_once():
    found = at(fused=True, alone=lambda name: 1000 if name == "b" else 0)
    assert (found.stage, found.activations, found.temporaries, found.gradients) == (("backward", 0), 50, 1005, 20)


def test_micro_batches_have_all_gradients_from_the_start():
    assert at(passes=2).total == 90 + 15 + 30
    assert at(passes=2, fused=True).total == 90 + 15 + 30


def test_gradients_of_idle_parameters_are_dropped():
    assert at(idle=("b",), together=lambda: 1000).gradients == 10
    assert at(idle=("a", "b"), together=lambda: 1000).stage != ("update",)


def trace(depth, size=lambda stage, depth: 0.0):
    stages = [("start",), *(("forward", i) for i in range(depth)), ("head",)]
    stages += [*(("backward", i) for i in reversed(range(depth))), ("end",)]
    layer = [s for s in stages if s[0] == "backward"]
    moments = (Moment(s, size(s, depth), depth, f"m.layers.{s[1]}.w" if s in layer else None) for s in stages)
    return Trace(tuple(moments), depth, "m.layers")


@pytest.mark.parametrize("depth", [5, 9, 80])
def test_traces_that_are_linear_are_extrapolated_exactly(depth):
    def size(stage, depth):
        return 7 + 3 * depth + 11 * (stage[1] if len(stage) > 1 else 0)

    assert extrapolate(trace(2, size), trace(4, size), depth) == trace(depth, size)


def test_traces_that_do_not_correspond_are_not_extrapolated():
    four = trace(4)
    assert extrapolate(trace(2), Trace((*four.moments, Moment(("end",), 1, 1)), 4, "m.layers"), 9) is None


def test_the_tracker_counts_a_storage_as_long_as_it_lives():
    known = torch.ones(100)
    with Tracker([known]) as tracker:
        x = known * 2
        y = x[:10].view(2, 5)
        del x
        assert tracker.now == 400  # the view keeps it
        z = y + 1
        assert tracker.now == 440 and tracker.peak == 440
        del y
        gc.collect()
        assert tracker.now == 40
        known.data = known[:1].clone()
        assert tracker.now == 44 - 400  # what was known is let go of
    assert z.shape == (2, 5)


def test_what_is_made_in_backward_is_told_from_what_forward_left():
    x = torch.ones(256, requires_grad=True)
    with Tracker([x]) as tracker:
        y = (x * 3).exp()
        tracker.enter(("back",), backward=True)
        y.sum().backward()
        tracker.end("x", x.grad)
    last = tracker.moments[-1]
    assert last.forward >= 1024 and last.backward >= 1024 and last.gradient in (0, 1024) and last.done == "x"
