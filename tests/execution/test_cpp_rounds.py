"""Kernels of rules with rounds: matrices of all sizes in one call, the same bits for any number of threads."""

from dataclasses import dataclass

import pytest
import torch

from hybridopt import HybridOptError, HybridOptimizer, Treatment
from hybridopt.core.contracts import Slot
from hybridopt.execution.backends.cpp import Cpp
from hybridopt.execution.cpp import builder, gradient_check
from hybridopt.execution.state import allocate
from hybridopt.execution.update import update
from hybridopt.execution.update_task import Task
from hybridopt.optimizer.gradients import finiteness
from hybridopt.parts.codecs.fp32 import Fp32
from hybridopt.parts.codecs.int8 import Int8
from hybridopt.parts.rules.adafactor import Adafactor
from hybridopt.parts.rules.adam_mini import AdamMini
from hybridopt.parts.rules.came import CAME
from hybridopt.parts.splits.whole import Whole
from hybridopt.policy.job import Job, declare
from support.updates import copy

SHAPES = [(64, 48), (2100, 512), (3, 5000), (130, 2)]  # the second one is larger than one thread takes


def task(rule, shape, name="w", dtype=torch.float32, codec=Fp32()):
    treatment, random = Treatment(full=rule, codec=codec), torch.Generator().manual_seed(sum(shape))
    job = Job(treatment, Whole(), shape)
    param, grad = (torch.randn(shape, generator=random).to(dtype) for _ in range(2))
    raw = {key: allocate(slot, param.device) for key, slot in declare(job).items()}
    return Task(param, grad, raw, job, treatment.store_for(param.dtype), 0.1, 0.99, 1, (0, name), 0)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.skipif(not builder.available(), reason="there is no compiler")
@pytest.mark.parametrize(
    ("rule", "shapes"),
    [(Adafactor(), SHAPES), (AdamMini(), SHAPES), (AdamMini(blocks=((2, 16), (1, 32)), axis="columns"), [(40, 64)])],
    ids=["adafactor", "adam_mini", "blocks"],
)
def test_all_sizes_at_once_by_any_number_of_threads(rule, shapes, threads):
    tasks = [task(rule, shape) for shape in shapes]
    wanted, others = [copy(one) for one in tasks], [copy(one) for one in tasks]
    assert all(map(Cpp().fits, tasks))
    for some, count in ((tasks, 1), (others, 2)):
        threads(count)
        Cpp().run(some)
    assert builder.available()  # or another backend would have been compared with itself
    for one, two, other in zip(tasks, others, wanted, strict=True):
        update(other.param, other.grad, other.raw, other.job, other.store, other.now())
        for name in ("param", *one.raw):
            got, again, plain = (x.param if name == "param" else x.raw[name] for x in (one, two, other))
            assert torch.equal(got, again), name
            assert (got - plain).abs().max() <= Cpp().tolerance(one) * plain.abs().max(), name


@pytest.mark.parametrize("shape", [(64, 1), (2, 64, 1)])
def test_what_is_no_matrix_goes_another_way(shape):
    assert not Cpp().fits(task(Adafactor(), shape))


STACKS = {  # of experts: rules with rounds, state of all kinds, what is rounded by the row in the whole stack
    "adafactor": (Adafactor(), torch.float32, Fp32()),
    "adam_mini": (AdamMini(blocks=((2, 5), (1, 10))), torch.bfloat16, Fp32()),
    "came": (CAME(), torch.bfloat16, Int8(block=16, exact_below=0)),
}


def check_as_eager(tasks, threads, same):
    """One call does all tasks as eager updates do, and the same for any number of threads.

    same: share of the numbers rounded at random, codes and bfloat16, that must be equal.
    """
    wanted, others = [copy(one) for one in tasks], [copy(one) for one in tasks]
    assert all(map(Cpp().fits, tasks))
    for some, count in ((tasks, 1), (others, 2)):
        threads(count)
        Cpp().run(some)
    assert builder.available()
    for one, two, other in zip(tasks, others, wanted, strict=True):
        update(other.param, other.grad, other.raw, other.job, other.store, other.now())
        for key in ("param", *one.raw):
            got, again, plain = (x.param if key == "param" else x.raw[key] for x in (one, two, other))
            assert got.equal(again), key
            if not got.dtype.is_floating_point or got.dtype == torch.bfloat16:  # rounded by the same bits
                assert (got == plain).float().mean() > same, key
            else:
                assert (got - plain).abs().max() <= Cpp().tolerance(one) * plain.abs().max(), key


@pytest.mark.skipif(not builder.available(), reason="there is no compiler")
@pytest.mark.parametrize("name", STACKS)
def test_a_stack_is_so_many_matrices(name, threads):
    """Beside a plain matrix, by one call; results are the eager ones, and the same for any number of threads."""
    rule, dtype, codec = STACKS[name]
    tasks = [task(rule, shape, "w", dtype, codec) for shape in [(5, 20, 48), (20, 64), (2, 3, 20, 16)]]
    check_as_eager(tasks, threads, 0.99)


OVER_ROWS = [(64, 48), (2100, 511), (3, 1000), (130, 3), (2, 25, 48)]  # the second one is larger than one thread takes


@pytest.mark.skipif(not builder.available(), reason="there is no compiler")
@pytest.mark.parametrize("rule", [AdamMini(), CAME()], ids=["by rows", "in rounds"])
def test_blocks_of_codes_go_on_in_the_next_row(rule, threads):
    tasks = [task(rule, shape, codec=Int8(block=100, exact_below=0)) for shape in OVER_ROWS]
    check_as_eager(tasks, threads, 0.999)


def test_a_stack_whose_blocks_go_on_in_the_next_matrix_goes_another_way():
    """Every matrix is a task of its own."""
    codec = Int8(block=64, exact_below=0)
    assert Cpp().fits(task(CAME(), (3, 4, 48), codec=codec)) and not Cpp().fits(task(CAME(), (3, 5, 48), codec=codec))
    assert Cpp().fits(task(CAME(), (1, 5, 48), codec=codec))


@dataclass(frozen=True)
class Shared(Adafactor):
    """A rule that keeps a number for a whole stack."""

    def slots(self, shape):
        return super().slots(shape) | {"largest": Slot((1,), exact=True, settled=True)}


def test_a_stack_that_keeps_something_for_all_its_matrices_goes_another_way():
    assert Cpp().fits(task(Shared(), (8, 12))) and not Cpp().fits(task(Shared(), (3, 8, 12)))


@pytest.mark.skipif(not builder.available(), reason="there is no compiler")
@pytest.mark.parametrize("policy", ["adafactor", "adam_mini"])
def test_an_optimizer_repeats_steps_of_stacks(policy, monkeypatch):
    """Gradients of a stack are read first, and what is no number is found in the last of its matrices."""
    runs, looked, run = [], [], Cpp.run

    def seen(self, tasks):
        tasks = list(tasks)
        looked.extend(task.stream[1] for task in tasks if task.check is not None and task.check.numbers is not None)
        run(self, tasks)

    monkeypatch.setattr(Cpp, "run", seen)
    monkeypatch.setattr(finiteness, "WORTH_PRINTING", 1)
    monkeypatch.setattr(gradient_check, "IN_CACHE", 1)
    for compile in (True, False):
        random = torch.Generator().manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(shape, generator=random)) for shape in [(4, 16, 32), (16, 32)]]
        named = [("experts.weight", params[0]), ("layer.weight", params[1])]
        optimizer = HybridOptimizer(named, lr=1e-2, policy=policy, compile=compile)
        for _ in range(4):
            for p in params:
                p.grad = torch.randn(p.shape, generator=random)
            optimizer.step()
        params[0].grad[-1, -1, -1] = float("nan")
        with pytest.raises(HybridOptError, match="experts.weight.*not finite"):
            optimizer.step()
        runs.append([p.detach() for p in params])
    assert looked.count("experts.weight") == 4 * (policy == "adafactor")  # rows of Adam-mini go by themselves
    for fast, eager in zip(*runs, strict=True):
        torch.testing.assert_close(fast, eager, rtol=1e-5, atol=1e-6)
