"""Steps within a window do not ask every state for its window."""

import pytest
import torch
from torch import nn

from hybridopt import HybridOptimizer
from hybridopt.optimizer.windows.unchanged import UnchangedWindows


@pytest.fixture
def held(monkeypatch):
    found, hold = [], UnchangedWindows.hold

    def seen(self, everything, states):
        found.append(hold(self, everything, states))
        return found[-1]

    monkeypatch.setattr(UnchangedWindows, "hold", seen)
    return found


def test_only_the_first_step_of_a_window_looks_at_every_parameter(held):
    params = [(f"layers.{i}.weight", nn.Parameter(torch.randn(8, 8))) for i in range(4)]
    optimizer = HybridOptimizer(params, lr=1e-3, policy="frugal", density=0.5, split="columns", update_gap=4)
    assert held.pop() is False
    for _ in range(10):
        for _, p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert held == [True, False, True, True, False, False, True, True, False, False]  # and that after state was made
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert not held[-1]
    del optimizer.state[params[1][1]]
    optimizer.step()
    assert not held[-1] and optimizer.state[params[1][1]]["step"] == 1


def test_what_comes_goes_or_is_of_another_window_is_seen():
    everything, states, open = [], {1: {"window": 0}, 2: {"window": 3}}, UnchangedWindows()
    assert not open.hold(everything, states)
    open.learn(everything, states)
    assert open.hold(everything, states) and not open.hold([], states)
    for other in ({1: {"window": 0}}, {**states, 3: {"window": 0}}, {1: {"window": 0}, 2: {"window": 4}}):
        assert not open.hold(everything, other)
    assert not open.hold(everything, {1: {}, 2: {"window": 3}})
    open.learn(everything, {1: {}})
    assert not open.hold(everything, {1: {}})
