"""Printed C++ kernels on whole optimizers: the bits of eager updates, whatever the shapes, threads and gradients."""

from dataclasses import replace
from math import prod

import pytest
import torch

from hybridopt import HybridOptimizer, Policy, Route, Treatment
from hybridopt.core.contracts import Draw
from hybridopt.execution.backends.cpp import Cpp
from hybridopt.execution.cpp import builder
from hybridopt.execution.cpp.layouts import layout_of, sizes_of
from hybridopt.execution.update import update
from hybridopt.parts import Bf16, Columns, Companded8, Fp32, Int8, Lion, Momentum, NoUpdate, Rows, SignSGD, Whole
from hybridopt.policy.job import Job
from support.updates import DTYPES, OPTIONS, Cell, cells, copy, tasks_of

SHAPES = [(7,), (1,), (5, 9), (33, 17), (3, 4, 6), (0, 4), (2, 2500), (90, 500), (64, 1)]
WAYS = {  # every way to round by random bits, and none
    "columns": (Treatment(Lion(), SignSGD(), Columns(0.3, 2)), torch.bfloat16),
    "joined": (Treatment(Lion(), SignSGD(), Columns(0.3, 2)), torch.float32),
    "rows": (Treatment(Momentum(), NoUpdate(), Rows(0.3, 2)), torch.float32),
    "whole": (Treatment(Lion(), codec=Bf16(), weight_decay=0.1), torch.bfloat16),
    "codes": (Treatment(Lion(), SignSGD(), Columns(0.5, 2), Int8(block=16, exact_below=0)), torch.bfloat16),
    "codes joined": (Treatment(Lion(), SignSGD(), Columns(0.5, 2), Int8(block=16, exact_below=0)), torch.float32),
    "codes over rows": (Treatment(Lion(), SignSGD(), Columns(0.3, 2), Int8(100, exact_below=0)), torch.bfloat16),
    "codes of rows": (Treatment(Momentum(), SignSGD(), Rows(0.3, 2), Companded8(100, exact_below=0)), torch.float32),
    "columns of float16": (Treatment(Lion(), SignSGD(), Columns(0.3, 2)), torch.float16),
    "codes of float16": (Treatment(Lion(), codec=Int8(block=16, exact_below=0), weight_decay=0.1), torch.float16),
}
CODED = [(5, 32), (33, 64), (90, 512)]


class Training:
    """Steps of an optimizer on parameters of some shapes, by gradients that follow from the step."""

    def __init__(self, way, compile, **options):
        treatment, dtype = WAYS[way]
        random = torch.Generator().manual_seed(0)
        shapes = CODED if "codes" in way else SHAPES
        values = [torch.randn(shape, generator=random).to(dtype) for shape in shapes]
        self.params = {f"layers.{i}.weight": torch.nn.Parameter(x) for i, x in enumerate(values)}
        self.random = torch.Generator().manual_seed(1)
        policy = Policy((Route(treatment),))
        self.optimizer = HybridOptimizer(self.params.items(), lr=1e-2, policy=policy, compile=compile, **options)

    def step(self, count=1, spoil=lambda grads: None):
        for _ in range(count):
            for p in self.params.values():
                p.grad = torch.randn(p.shape, generator=self.random).to(p.dtype)
            spoil([p.grad for p in self.params.values()])
            self.optimizer.step()
        return self

    def tensors(self):
        states = [x for state in self.optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
        return [*(p.detach() for p in self.params.values()), *states]


def assert_same(one, other):
    pairs = list(zip(one.tensors(), other.tensors(), strict=True))
    assert len(pairs) > len(one.params)
    for a, b in pairs:
        assert a.dtype == b.dtype and torch.allclose(a.double(), b.double(), 0, 0, equal_nan=True)


@pytest.fixture
def all_by_cpp(monkeypatch):
    """Every task fits, and none is left to others."""
    fits = Cpp.fits
    monkeypatch.setattr(Cpp, "fits", lambda self, task: fits(self, task) or pytest.fail(f"left to others: {task.job}"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("all_by_cpp")
def test_all_shapes_windows_and_threads_give_the_bits_of_eager_updates(way):
    eager, fast = Training(way, False).step(5), Training(way, True)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 1, 3, 1):
            torch.set_num_threads(count)
            fast.step()
    finally:
        torch.set_num_threads(threads)
    assert builder.available()
    assert_same(fast, eager)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_that_are_no_numbers_do_what_they_do_to_eager_updates(way):
    def spoil(grads):
        for i, grad in enumerate(grads):
            if grad.numel() > i:
                grad.view(-1)[i] = (float("nan"), float("inf"), -float("inf"), 0.0)[i % 4]

    fast, eager = (Training(way, compile, nonfinite="ignore") for compile in (True, False))
    fast.step(2, spoil), eager.step(2, spoil)
    for a, b in zip(list(fast.params.values()), list(eager.params.values()), strict=True):
        assert torch.allclose(a.detach().double(), b.detach().double(), 0, 0, equal_nan=True)


def test_scales_of_codes_are_rounded_as_in_eager_updates():
    """Torch divides a number by a tensor in two roundings; another scale shows in few codes of a million."""
    random = torch.Generator().manual_seed(0)
    grad = 1 - torch.rand(1024, 2048, generator=random) / 8
    codes = []
    for compile in (True, False):
        p = torch.nn.Parameter(torch.zeros_like(grad))
        policy = Policy((Route(Treatment(Lion(), codec=Int8(block=16, exact_below=0))),))
        optimizer = HybridOptimizer([("layers.0.weight", p)], lr=1e-2, policy=policy, compile=compile)
        p.grad = grad
        optimizer.step()
        codes.append(optimizer.state[p]["exp_avg"])
    assert codes[0].equal(codes[1])


@pytest.mark.parametrize("way", WAYS)
def test_a_run_goes_on_from_what_it_has_saved(way):
    whole, first = Training(way, True).step(5), Training(way, True).step(2)
    second = Training(way, True).step(2)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert_same(second.step(3), whole)


ROUNDS = ("adam_mini", "came")  # rules with moments of all elements


def test_what_is_covered(monkeypatch):
    """What is missing here takes another way: float64, state in blocks larger than what waits in a cache."""
    monkeypatch.setitem(OPTIONS, "companded8", OPTIONS["int8"])
    backend, exact = Cpp(), ("fp32", "bf16", "fp16")
    rules, splits = ("adamw", "lion", "momentum", "sgd", "signsgd"), ("whole", "empty", "columns", "rows", "block")
    for cell in cells(rules, splits, ("fp32", "int8", "companded8"), exact):
        assert all(backend.fits(task.in_blocks()) for task in tasks_of(cell)), cell
    for block, fits in ((24, True), (5000, False)):  # which is no whole number of rows, and more than 4,096
        monkeypatch.setitem(OPTIONS, "int8", {"block": block, "exact_below": 0})
        coded = [*cells(("lion",), ("columns", "rows"), ("int8",), exact)]
        coded += cells(ROUNDS, ("whole",), ("int8",), exact)
        assert len(coded) > 6 and all(backend.fits(task) == fits for cell in coded for task in tasks_of(cell))
    for cell in cells(rules, ("whole",), ("bf16",), exact):
        assert all(backend.fits(task) for task in tasks_of(cell)), cell
    for cell in cells(rules, ("columns", "svd", "randk"), ("fp32",), DTYPES):
        fits = cell.split == "columns" and cell.weight in exact
        assert [backend.fits(task) for task in tasks_of(cell)] == [fits] * 3, cell


@pytest.mark.parametrize(
    ("shape", "dtype", "rows"),
    [((4096, 16), torch.float32, 1024), ((2, 3, 16), torch.float32, 6), ((1031, 16), torch.float32, 1)]
    + [((16, 4096), torch.float32, 1), ((4096, 16), torch.bfloat16, 1)],
)
def test_a_kernel_takes_rows_of_narrow_matrices_together(shape, dtype, rows):
    """Those of adapters have sixteen columns, which fill no register; random bits go by the rows that there are."""
    treatment = Treatment(Lion(), SignSGD(), Columns(0.25, 2))
    job = Job(treatment, treatment.split.at(Draw(0, "w", 0, 0), shape), shape)
    layout = layout_of(job, treatment.store_for(dtype), dtype, dtype)
    joined = prod(shape[:-1]) // rows, rows * shape[-1], rows * shape[-1] // 4
    assert sizes_of(job, layout) == joined


SHARDED = [  # every way to round by random bits: weights by piece and by row, chosen columns, state, blocks
    ("lion", "whole", "fp32", 64),
    ("lion", "columns", "fp32", 64),
    ("lion", "rows", "fp32", 64),
    ("lion", "whole", "bf16", 64),
    ("lion", "whole", "int8", 64),
    ("lion", "columns", "fp32", 16),
    ("lion", "whole", "bf16", 16),
]


@pytest.mark.parametrize(("full", "split", "codec", "width"), SHARDED)
def test_rows_of_a_shard_are_rounded_by_the_row_in_the_whole(full, split, codec, width, monkeypatch):
    monkeypatch.setattr("support.updates.SHAPE", (32, width))
    tasks = [replace(one.in_blocks(), before=7 * 64) for one in tasks_of(Cell(full, split, codec, "bf16"))]
    others, unmoved = [copy(one) for one in tasks], [replace(copy(one), before=0) for one in tasks]
    assert all(map(Cpp().fits, tasks)) and Cpp.heeds_row
    Cpp().run(tasks), Cpp().run(unmoved)
    for one, other, zero in zip(tasks, others, unmoved, strict=True):
        update(other.param, other.grad, other.raw, other.job, other.store, other.now())
        assert one.param.equal(other.param) and not one.param.equal(zero.param)
        assert all(one.raw[name].equal(x) for name, x in other.raw.items())


def test_rows_of_a_shard_whose_rule_has_rounds_are_left_to_others():
    """Who carries them out meets the other ranks between two rounds."""
    (task, *_) = tasks_of(Cell("adafactor", "whole", "fp32", "fp32"))
    assert Cpp().fits(task) and not Cpp().fits(replace(task, before=64))


@pytest.mark.parametrize("codec", [Fp32(), Int8()])
def test_a_large_optimizer_uses_them_unasked_and_a_small_one_does_not(codec, monkeypatch):
    ran = []
    monkeypatch.setattr(Cpp, "run", lambda self, tasks: ran.extend(tasks))
    for rows, there in ((1024, True), (1000, False)):
        p = torch.nn.Parameter(torch.zeros(rows, 1024))
        p.grad = torch.zeros_like(p)
        policy = Policy((Route(Treatment(Lion(), split=Whole(), codec=codec)),))
        HybridOptimizer([("w", p)], lr=1e-3, policy=policy).step()
        assert bool(ran) == there
        ran.clear()


@pytest.mark.parametrize(
    ("weight", "grad"), [("fp16", torch.float32), ("fp32", torch.float16), ("bf16", torch.float16)], ids=str
)
def test_gradients_of_another_dtype_than_the_weight(weight, grad):
    """A weight of float16 that goes beyond what that holds is infinite, as in eager updates."""
    for full, split in (("lion", "columns"), ("sgd", "whole")):
        tasks = [replace(task, grad=task.grad.to(grad)) for task in tasks_of(Cell(full, split, "fp32", weight))]
        for task in tasks:
            task.param.view(-1)[:4] = torch.tensor([65504.0, -65504.0, 6e-8, -0.0]).to(task.param.dtype)
            task.grad.view(-1)[:4] = torch.tensor([-60000.0, 60000.0, 6e-8, 0.0])
        others = [copy(task) for task in tasks]
        assert all(map(Cpp().fits, tasks))
        Cpp().run(tasks)
        for task, other in zip(tasks, others, strict=True):
            update(other.param, other.grad, other.raw, other.job, other.store, other.now())
            assert task.param.equal(other.param) and all(task.raw[name].equal(x) for name, x in other.raw.items())
        assert weight != "fp16" or split != "whole" or tasks[0].param.isinf().any()
