"""Steps that repeat what the last one has found out: the bits of steps that find everything out anew."""

import random
from copy import deepcopy

import pytest
import torch
from torch import nn

from hybridopt import HybridOptimizer, Policy, Route, Treatment
from hybridopt.optimizer import repeats, updates
from hybridopt.parts import AdamW, Columns, Empty, Lion, Momentum, NoUpdate, SignSGD

SHAPES = [(64, 16), (16, 64), (5, 9), (7,), (33, 32), (32, 33), (2, 3, 16), (40, 16)]
WAYS = {
    "signsgd": (Treatment(Lion(), SignSGD(), Empty()), torch.float32),
    "lion": (Treatment(Lion(), weight_decay=0.1), torch.float32),
    "columns": (Treatment(Lion(), SignSGD(), Columns(0.3, 4)), torch.float32),
    "random": (Treatment(Momentum(), SignSGD(), Columns(0.3, 4)), torch.bfloat16),
    "adamw": (Treatment(AdamW(), NoUpdate()), torch.float32),
}


class Run:
    """An optimizer of a model of parameters, whose gradients follow from the step."""

    def __init__(self, way, compile):
        treatment, dtype = WAYS[way]
        draw = torch.Generator().manual_seed(0)
        self.model = nn.ParameterDict(
            {f"w{i}": torch.randn(s, generator=draw).to(dtype) for i, s in enumerate(SHAPES)}
        )
        named = [(f"layers.{name}.weight", p) for name, p in self.model.items()]
        self.optimizer = HybridOptimizer(named, lr=1e-2, policy=Policy((Route(treatment),)), compile=compile)
        self.draw, self.left_out, self.spoil = torch.Generator().manual_seed(1), set(), lambda grad: grad

    @property
    def params(self):
        return list(self.model.values())

    def step(self):
        for i, p in enumerate(self.params):
            grad = self.spoil(torch.randn(p.shape, generator=self.draw).to(p.dtype))
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
    fast, slow = Run(way, True), Run(way, way == "adamw")

    def step():
        fast.step()
        with monkeypatch.context() as patch:
            patch.setattr(updates, "FEW", 1 << 30)
            slow.step()
        for a, b in zip(fast.tensors(), slow.tensors(), strict=True):
            assert a.dtype == b.dtype and a.equal(b)

    return fast, slow, step


@pytest.fixture
def repeated(monkeypatch):
    """Names of the parameters of all updates that were repeated."""
    found, ready = [], repeats._Crew.ready

    def seen(self, states):
        step = ready(self, states)
        found.extend(one.name for one in self.ones if step)
        return step

    monkeypatch.setattr(repeats._Crew, "ready", seen)
    return found


@pytest.mark.filterwarnings("ignore::hybridopt.HybridOptWarning")
@pytest.mark.parametrize("way", WAYS)
def test_whatever_changes_between_two_steps_counts(way, monkeypatch, repeated):
    for change in CHANGES.values():
        fast, slow, step = twins(way, monkeypatch)
        for _ in range(3):
            step()
        assert repeated, "the third step repeats the second"
        for run in (fast, slow):
            change(run)
        for _ in range(4):
            step()


@pytest.mark.filterwarnings("ignore::hybridopt.HybridOptWarning")
@pytest.mark.parametrize("way", WAYS)
def test_any_row_of_changes_counts(way, monkeypatch, repeated):
    lasting = {"lr in a tensor", "frozen", "negated", "halved", "added", "unpickled"}
    choice, fast, slow, step = random.Random(way), *twins(way, monkeypatch)
    for _ in range(40):
        change = CHANGES[choice.choice(sorted(CHANGES.keys() - lasting))]
        for run in (fast, slow):
            run.left_out, run.spoil = set(), lambda grad: grad
            change(run)
        for _ in range(choice.randrange(4)):
            step()
    assert repeated
