"""Small models have C++ kernels once they have taken a hundred steps, and are told of no compiler before."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from hybridopt import HybridOptimizer, HybridOptWarning
from hybridopt.execution.backends.cpp import Cpp
from hybridopt.execution.cpp import ahead, builder
from hybridopt.execution.dispatch import LASTING, WORTH_PRINTING, worth
from hybridopt.optimizer.parameters import AHEAD

SHAPES = [(8, 16), (16, 8), (5, 9), (7,), (8, 8)]
EXACT = {"signsgd": {}, "frugal": {"density": 0.0, "full": "lion"}}
ROUNDED = {"adam_mini": {}, "adalomo": {}, "adamw": {"codec": "int8"}}


class Lasting:
    """An optimizer of a few small parameters, whose gradients follow from the step."""

    def __init__(self, policy, options, compile="auto", release="accumulate"):
        draw = torch.Generator().manual_seed(0)
        self.params = [nn.Parameter(torch.randn(s, generator=draw)) for s in SHAPES]
        named = [(f"layers.{i}.weight", p) for i, p in enumerate(self.params)]
        self.optimizer = HybridOptimizer(named, lr=1e-2, policy=policy, compile=compile, release=release, **options)

    def to(self, last):
        """Take steps up to one."""
        while (step := self.optimizer.param_groups[0]["step"]) < last:
            draw = torch.Generator().manual_seed(step)
            loss = sum((p * torch.randn(p.shape, generator=draw)).sum() for p in self.params)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return self

    def weights(self):
        return torch.cat([p.detach().flatten() for p in self.params])


@pytest.fixture
def kernels(monkeypatch):
    """The steps in which kernels updated something, and those in which making them was begun."""
    ran, begun = [], []
    run, begin = Cpp.run, ahead.begin

    def noted(self, tasks):
        tasks = list(tasks)
        ran.extend(task.step for task in tasks)
        run(self, tasks)

    monkeypatch.setattr(builder, "_built", {})
    monkeypatch.setattr(Cpp, "run", noted)
    monkeypatch.setattr(ahead, "begin", lambda text, make: (begun.append(text), begin(text, make)))
    return ran, begun


@pytest.mark.parametrize("release", ["accumulate", "fused"])
@pytest.mark.parametrize("policy", EXACT)
def test_kernels_update_small_models_from_a_step_on(policy, release, kernels):
    """They are begun while steps go on, and what is exact has the bits of steps without them."""
    ran, begun = kernels
    run = Lasting(policy, EXACT[policy], release=release).to(LASTING - AHEAD)
    assert not begun
    run.to(LASTING - AHEAD + 1)
    assert begun and not ran
    run.to(LASTING)
    assert not ran
    run.to(LASTING + 3)
    assert min(ran) == LASTING
    assert run.weights().equal(Lasting(policy, EXACT[policy], False, release).to(LASTING + 3).weights())


@pytest.mark.parametrize("policy", ROUNDED)
def test_what_rounds_elsewhere_is_the_same_in_a_run_that_was_resumed(policy, kernels):
    """Whether kernels are there already decides nothing: the step does."""
    ran, _ = kernels
    whole, states = Lasting(policy, ROUNDED[policy]), {}
    for step in (LASTING - AHEAD + 7, LASTING + 2):
        whole.to(step)
        states[step] = deepcopy([p.detach() for p in whole.params]), deepcopy(whole.optimizer.state_dict())
    want = whole.to(LASTING + 6).weights()
    assert ran
    for step, (weights, state) in states.items():
        again = Lasting(policy, ROUNDED[policy])
        with torch.no_grad():
            for p, x in zip(again.params, weights, strict=True):
                p.copy_(x)
        again.optimizer.load_state_dict(state)
        assert again.to(LASTING + 6).weights().equal(want), step


def test_without_a_compiler_it_is_said_once_and_steps_go_on(kernels, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "missing"))
    for name in ("_failed", "_found", "_told", "refused"):
        monkeypatch.setattr(builder, name, set())
    monkeypatch.setattr(builder, "_missing", [])
    run = Lasting("adam_mini", {}).to(LASTING - AHEAD)
    with pytest.warns(HybridOptWarning, match="there is no C\\+\\+ compiler") as told:
        run.to(LASTING + 3)
    assert len([one for one in told if one.category is HybridOptWarning]) == 1
    assert run.weights().equal(Lasting("adam_mini", {}, False).to(LASTING + 3).weights())


def test_what_an_optimizer_counts_for():
    assert worth(10, LASTING - 1) == 10 and worth(10, LASTING) == WORTH_PRINTING
    assert worth(10 * WORTH_PRINTING, LASTING) == 10 * WORTH_PRINTING
