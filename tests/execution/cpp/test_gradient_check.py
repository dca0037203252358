"""One look at all gradients before anything is changed: what is not finite is found, and nothing is read twice."""

import pytest
import torch

from hybridopt import HybridOptError, HybridOptimizer, HybridOptWarning
from hybridopt.execution.backends.cpp import Cpp
from hybridopt.execution.cpp import builder
from hybridopt.execution.cpp.gradient_check import check_gradients
from hybridopt.execution.gradient_check import UncheckedGradient
from hybridopt.execution.printing.cpp.rounds import RoundsLayout
from hybridopt.optimizer.gradients import reductions
from hybridopt.optimizer.parameters import Parameters
from hybridopt.parts.rules.column_norm import ColumnNorm
from support.updates import Cell, tasks_of

SHAPES = {"a.weight": (64, 48), "b.weight": (2100, 512), "c.weight": (3, 5000), "d.weight": (130, 2), "e.bias": (77,)}
IN_ROUNDS = ("adalomo", "adafactor", "came", "adam_mini")  # b.weight is larger than one thread takes
pytestmark = pytest.mark.skipif(not builder.available(), reason="there is no compiler")


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


class Steps:
    """Steps of an optimizer, by gradients that follow from their number."""

    def __init__(self, policy, dtype=torch.float32, **options):
        random = torch.Generator().manual_seed(0)
        values = {name: torch.randn(shape, generator=random).to(dtype) for name, shape in SHAPES.items()}
        self.params = {name: torch.nn.Parameter(value) for name, value in values.items()}
        self.optimizer = HybridOptimizer(self.params.items(), lr=1e-2, policy=policy, compile=True, **options)
        self.random = torch.Generator().manual_seed(1)

    def step(self, spoil=lambda params: None):
        for p in self.params.values():
            p.grad = torch.randn(p.shape, generator=self.random).to(p.dtype)
        spoil(self.params)
        self.optimizer.step()

    def tensors(self):
        states = [x for state in self.optimizer.state.values() for x in state.values()]
        return [torch.as_tensor(x).clone() for x in (*(p.detach() for p in self.params.values()), *states)]


@pytest.fixture(scope="module")
def gradient():
    (task, *_) = tasks_of(Cell("signsgd", "whole", "fp32", "fp32"))
    return lambda name, grad: UncheckedGradient(name, task.param, grad, task.job, task.store, True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_number_counts_and_none_that_is_finite(dtype, gradient, threads):
    top = torch.finfo(dtype)
    fine = torch.tensor([top.max, top.min, top.tiny, top.tiny / 4, 0.0, -0.0], dtype=dtype)
    bad = torch.tensor([float("nan"), -float("nan"), float("inf"), -float("inf")], dtype=dtype)
    grads = {}
    for n in (0, 1, 15, 16, 17, 63, 64, 1000, (1 << 18) + 5):
        grads[f"fine {n}"] = fine.repeat(n // 6 + 1)[:n].clone()
        for i, at in enumerate({0, n // 2, n - 1, min(n - 1, 62)} if n else ()):
            grads[f"bad {n} {at}"] = grads[f"fine {n}"].clone()
            grads[f"bad {n} {at}"][at] = bad[i]
    found = check_gradients([gradient(name, grad) for name, grad in grads.items()])
    assert found.keys() == grads.keys()
    assert {name for name, one in found.items() if one.finite} == {name for name in grads if name.startswith("fine")}


def test_what_is_no_memory_of_its_own_is_left_to_others(gradient):
    whole = torch.zeros(4, 6)
    others = {"columns": whole[:, :3], "turned": whole.t(), "double": whole.double()}
    assert check_gradients([gradient(name, grad) for name, grad in others.items()]) == {}
    assert check_gradients([gradient("rows", whole[1:])])["rows"].finite


@pytest.mark.parametrize(
    ("policy", "dtype"),
    [*((policy, torch.float32) for policy in IN_ROUNDS), ("adalomo", torch.bfloat16), ("came", torch.float16)],
    ids=str,
)
def test_updates_after_the_first_look_have_the_bits_of_updates_without(policy, dtype, threads, monkeypatch):
    looked, run = [], Cpp.run

    def seen(self, tasks):
        tasks = list(tasks)
        looked.extend(task.stream[1] for task in tasks if task.check is not None and task.check.numbers is not None)
        run(self, tasks)

    monkeypatch.setattr(Cpp, "run", seen)
    one, other = Steps(policy, dtype), Steps(policy, dtype, nonfinite="ignore")
    for _ in range(3):
        one.step(), other.step()
    assert looked == 3 * ["b.weight"] * (policy != "adam_mini")  # others are read from memory once
    assert all(a.equal(b) for a, b in zip(one.tensors(), other.tensors(), strict=True))


@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
@pytest.mark.parametrize("name", ["b.weight", "e.bias"])
@pytest.mark.parametrize("policy", [*IN_ROUNDS, "lion"])
def test_nothing_is_changed_and_the_parameter_is_named(policy, name, bad):
    steps = Steps(policy)
    steps.step()
    before = steps.tensors()

    def spoil(params):
        params[name].grad.view(-1)[-1] = bad
        params["e.bias"].grad[3] = bad

    with pytest.raises(HybridOptError, match=f"{name}.*not finite at step 1.*nothing was changed"):
        steps.step(spoil)
    steps.optimizer.nonfinite = "skip"
    with pytest.warns(HybridOptWarning, match=f"{name}.*the step is skipped"):
        steps.step(spoil)
    assert all(a.equal(b) for a, b in zip(before, steps.tensors(), strict=True))


def test_gradients_are_read_once(monkeypatch):
    """Not by torch besides, and where norms are wanted by those alone."""
    monkeypatch.setattr(reductions, "sums", lambda grads: pytest.fail("read by torch"))
    Steps("adafactor").step()
    monkeypatch.setattr(Parameters, "check", lambda *_: pytest.fail("read once more"))
    steps = Steps("adafactor", clip=1.0)
    steps.step()
    with pytest.raises(HybridOptError, match="c.weight.*not finite at step 1"):
        steps.step(lambda params: params["c.weight"].grad.fill_(float("nan")))


@pytest.mark.parametrize(("momentum", "slots"), [(0.0, ()), (0.9, (("momentum_buffer", "float32"),))])
def test_a_first_look_that_reads_what_is_kept_is_not_made_before(momentum, slots):
    """What is kept is not there yet, or may be dropped with its window."""
    rule = ColumnNorm(momentum, axis="columns")
    layout = RoundsLayout(rule, "full", (None, None), "float32", "float32", slots, (), 0, ())
    assert layout.rounds is not None and layout.looks_first == (momentum == 0)


def test_rows_that_go_by_themselves_are_looked_at_when_they_are_updated(monkeypatch):
    """So that the check is the one of all other rules, and steps repeat."""
    ran, run = [], Cpp.run
    monkeypatch.setattr(Cpp, "run", lambda self, tasks: ran.append(run(self, tasks)))
    steps = Steps("adam_mini")
    for _ in range(5):
        steps.step()
    assert len(ran) == 2
