"""Steps that repeat what the last one has found out: the bits of steps that find everything out anew."""

import random
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hybridopt import HybridOptError, HybridOptimizer, Policy, Route, Treatment
from hybridopt.execution.cpp.gradient_check import Finite
from hybridopt.optimizer import repeated_updates, updates
from hybridopt.optimizer.gradients import repeated_checks as repeated_checks
from hybridopt.parts import AdaLomo, AdamW, Columns, Empty, Lion, Momentum, NoUpdate, SignSGD

SHAPES = [(64, 16), (16, 64), (5, 9), (7,), (33, 32), (32, 33), (2, 3, 16), (40, 16)]
WAYS = {
    "signsgd": (Treatment(Lion(), SignSGD(), Empty()), torch.float32),
    "lion": (Treatment(Lion(), weight_decay=0.1), torch.float32),
    "columns": (Treatment(Lion(), SignSGD(), Columns(0.3, 4)), torch.float32),
    "random": (Treatment(Momentum(), SignSGD(), Columns(0.3, 4)), torch.bfloat16),
    "adamw": (Treatment(AdamW(), NoUpdate()), torch.float32),
    "rounds": (Treatment(AdaLomo(), NoUpdate()), torch.float32),
}
ROUNDED = {"adamw", "rounds"}  # elsewhere than eager updates


class Run:
    """An optimizer of a model of parameters, whose gradients follow from the step."""

    def __init__(self, way, compile):
        treatment, dtype = WAYS[way]
        draw = torch.Generator().manual_seed(0)
        self.model = nn.ParameterDict(
            {f"w{i}": torch.randn(s, generator=draw).to(dtype) for i, s in enumerate(SHAPES)}
        )
        named = [(f"layers.{name}.weight", p) for name, p in self.model.items()]
        policy = Policy((Route(treatment),))
        self.optimizer = HybridOptimizer(named, lr=1e-2, policy=policy, compile=compile, nonfinite="skip")
        self.draw, self.left_out, self.spoil = torch.Generator().manual_seed(1), set(), lambda grad: grad
        self.bad, self.old = {}, []  # what is not finite, by place; gradients that are still there in the next step

    @property
    def params(self):
        return list(self.model.values())

    def step(self):
        self.old = [p.grad for p in self.params]
        for i, p in enumerate(self.params):
            grad = torch.randn(p.shape, generator=self.draw).to(p.dtype)
            grad.view(-1)[-1] = self.bad.get(i, 0.5)
            grad = self.spoil(grad)
            p.grad = None if i in self.left_out or not p.requires_grad else grad
        self.optimizer.step()

    def state(self, place):
        return self.optimizer.state[self.params[place]]

    def tensors(self):
        states = [self.optimizer.state.get(p, {}) for p in self.params]
        kept = [torch.as_tensor(x) for state in states for _, x in sorted(state.items())]
        return [*(p.detach() for p in self.params), *kept]


def moved(run):
    run.params[0].data = run.params[0].data.clone()


def transposed(run):
    run.params[0].data = run.params[0].data.t().contiguous().t()


def negated(run):
    run.params[1].data = torch._neg_view(run.params[1].data)


def halved(run):
    other = torch.float32 if run.params[0].dtype == torch.bfloat16 else torch.bfloat16
    run.params[0].data = run.params[0].data.to(other)


def frozen(run):
    run.params[2].requires_grad_(False).grad = None


def loaded(run):
    saved = deepcopy(run.optimizer.state_dict())
    run.step()
    run.optimizer.load_state_dict(saved)


def unpickled(run):
    params = run.params
    run.optimizer, run.model = deepcopy((run.optimizer, run.model))
    for p in params:
        p.data.fill_(float("nan"))


def state_of_another(run):
    """Another tensor in the place of one of the state, at another address."""
    for name, x in list(run.state(0).items()):
        if isinstance(x, torch.Tensor):
            run.state(0)[name] = x.clone()


def older(run):
    if run.state(1):
        run.state(1)["step"] += 5


def all_older(run):
    for place in range(len(SHAPES)):
        if run.state(place):
            run.state(place)["step"] += 5


def other_columns(run):
    if "split.index" in run.state(0):
        index = run.state(0)["split.index"]
        index.data.copy_(torch.arange(len(index)))


def other_window(run):
    for group in run.optimizer.param_groups:
        group["step"] += 3


def added(run):
    p = nn.Parameter(torch.ones(9, 3, dtype=run.params[0].dtype))
    run.model["new"] = p
    run.optimizer.add_param_group({"params": [("layers.new.weight", p)], "lr": 0.5})


def nothing(grad):
    return torch._efficientzerotensor(grad.shape, dtype=grad.dtype)


CHANGES = {
    "NaN": lambda run: run.bad.update({len(SHAPES) - 1: float("nan")}),
    "infinity": lambda run: run.bad.update({3: -float("inf")}),
    "lr": lambda run: run.optimizer.param_groups[0].update(lr=3e-3),
    "no lr": lambda run: run.optimizer.param_groups[0].update(lr=0.0),
    "lr in a tensor": lambda run: run.optimizer.param_groups[0].update(lr=torch.tensor(3e-3)),
    "decay": lambda run: run.optimizer.param_groups[0].update(weight_decay=0.3),
    "some without gradients": lambda run: run.left_out.update({1, 3}),
    "all but a few without gradients": lambda run: run.left_out.update(range(1, len(SHAPES) - 1)),
    "first without gradient": lambda run: run.left_out.add(0),
    "gradients that are not contiguous": lambda run: setattr(run, "spoil", lambda g: torch.stack([g, g], -1)[..., 0]),
    "gradients to be negated": lambda run: setattr(run, "spoil", torch._neg_view),
    "gradients without memory": lambda run: setattr(run, "spoil", nothing),
} | {f.__name__: f for f in (moved, transposed, negated, halved, frozen, loaded, unpickled, state_of_another, older)}
CHANGES |= {f.__name__: f for f in (all_older, other_columns, other_window, added)}


def twins(way, monkeypatch):
    """Return a run that repeats, one that never does, and a function that takes a step of both and compares them."""
    fast, slow = Run(way, True), Run(way, way in ROUNDED)

    def step():
        fast.step()
        with monkeypatch.context() as patch:
            patch.setattr(updates, "FEW", 1 << 30)
            patch.setattr(repeated_checks, "FEW", 1 << 30)
            slow.step()
        for a, b in zip(fast.tensors(), slow.tensors(), strict=True):
            assert a.dtype == b.dtype and a.equal(b)

    return fast, slow, step


@pytest.fixture
def read(monkeypatch):
    """What looks that were repeated have found."""
    found, finite = [], Finite.finite

    def seen(self, grads):
        found.append(finite(self, grads))
        return found[-1]

    monkeypatch.setattr(Finite, "finite", seen)
    return found


@pytest.fixture
def repeated(monkeypatch):
    """Names of the parameters of all updates that were repeated."""
    found, ready = [], repeated_updates._Crew.ready

    def seen(self, states):
        step = ready(self, states)
        found.extend(one.name for one in self.ones if step)
        return step

    monkeypatch.setattr(repeated_updates._Crew, "ready", seen)
    return found


@pytest.mark.filterwarnings("ignore::hybridopt.HybridOptWarning")
@pytest.mark.parametrize("way", WAYS)
def test_whatever_changes_between_two_steps_counts(way, monkeypatch, repeated, read):
    for change in CHANGES.values():
        read.clear()
        fast, slow, step = twins(way, monkeypatch)
        for _ in range(3):
            step()
        assert repeated and read == [True], "the third step repeats the second"
        for run in (fast, slow):
            change(run)
        for _ in range(4):
            step()


@pytest.mark.filterwarnings("ignore::hybridopt.HybridOptWarning")
@pytest.mark.parametrize("way", WAYS)
def test_any_row_of_changes_counts(way, monkeypatch, repeated, read):
    lasting = {"lr in a tensor", "frozen", "negated", "halved", "added", "unpickled"}
    choice, fast, slow, step = random.Random(way), *twins(way, monkeypatch)
    for _ in range(40):
        change = CHANGES[choice.choice(sorted(CHANGES.keys() - lasting))]
        for run in (fast, slow):
            run.left_out, run.bad, run.spoil = set(), {}, lambda grad: grad
            change(run)
        for _ in range(choice.randrange(5)):
            spoilt = {choice.randrange(len(SHAPES)): float("inf")} if choice.random() < 0.2 else {}
            for run in (fast, slow):
                run.bad = spoilt or run.bad
            step()
            for run in (fast, slow):
                run.bad = {}
    assert repeated and {True, False} <= set(read)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_every_gradient_is_read_in_every_step_where_it_is_now(value, threads, read):
    run, before = Run("signsgd", True), torch.get_num_threads()
    run.optimizer.nonfinite = "raise"
    torch.set_num_threads(threads)
    try:
        for _ in range(3):
            run.step()
        for place in range(len(SHAPES)):
            kept = [x.clone() for x in run.tensors()]
            run.bad = {place: value}
            with pytest.raises(HybridOptError, match=f"w{place}.*not finite"):
                run.step()
            assert all(a.equal(b) for a, b in zip(kept, run.tensors(), strict=True))
            run.bad = {}
            run.step()
            assert read[-2:] == [False, True]
    finally:
        torch.set_num_threads(before)


class Operations(TorchDispatchMode):
    """Names of all operations."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_a_mode_that_sees_all_operations_sees_gradients_read(read):
    run = Run("signsgd", True)
    for _ in range(3):
        run.step()
    with Operations() as seen:
        run.step()
    assert read == [True] and "sum.default" in seen.names


@pytest.mark.parametrize(("before", "after"), [(0.0, 1e-2), (1e-2, 0.0)])
def test_a_rate_that_leaves_zero_is_not_updated_as_one_of_zero(before, after, monkeypatch, repeated):
    """Which backend is the first that fits depends on it; results must not depend on what steps were before."""
    fast, slow, step = twins("adamw", monkeypatch)
    for lr in (before, after):
        for run in (fast, slow):
            run.optimizer.param_groups[0]["lr"] = lr
        for _ in range(3):
            step()
        assert repeated
        repeated.clear()
