"""Kernels of rules with rounds: matrices of all sizes in one call, the same bits for any number of threads."""

import pytest
import torch

from hybridopt import Treatment
from hybridopt.execution.backends.cpp import Cpp
from hybridopt.execution.cpp import builder
from hybridopt.execution.state import allocate
from hybridopt.execution.task import Task
from hybridopt.execution.update import update
from hybridopt.parts.rules.adafactor import Adafactor
from hybridopt.parts.rules.adam_mini import AdamMini
from hybridopt.parts.splits.whole import Whole
from hybridopt.policy.job import Job, declare
from support.updates import copy

SHAPES = [(64, 48), (2100, 512), (3, 5000), (130, 2)]  # the second one is larger than one thread takes


def task(rule, shape, name="w"):
    treatment, random = Treatment(full=rule), torch.Generator().manual_seed(sum(shape))
    job = Job(treatment, Whole(), shape)
    param, grad = (torch.randn(shape, generator=random) for _ in range(2))
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


@pytest.mark.parametrize("shape", [(64, 1), (2, 3, 4)])
def test_what_is_no_matrix_goes_another_way(shape):
    assert not Cpp().fits(task(Adafactor(), shape))
