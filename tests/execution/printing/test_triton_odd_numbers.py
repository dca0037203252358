"""Printed Triton kernels of numbers that have almost faded, are infinite, or are none, held to eager updates."""

from dataclasses import replace

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

from hybridopt import HybridOptimizer
from hybridopt.core.contracts import Backend
from hybridopt.execution.backends.triton import Triton
from hybridopt.execution.backends.triton_rounds import TritonRounds
from hybridopt.execution.update_task import Task
from hybridopt.optimizer import updates
from hybridopt.parts.codecs._blockwise import LEAST
from support.kernel_order import KernelOrder, copied, eager
from support.triton_language import triton_on_numpy

SHAPE = (64, 1024)
ONE_PASS: dict[str, tuple[Backend[Task], dict]] = {
    "columns": (Triton(), {"policy": "frugal", "density": 0.25}),
    "columns, lion": (Triton(), {"policy": "frugal", "density": 0.25, "full": "lion"}),
    "adam_mini": (TritonRounds(), {"policy": "adam_mini"}),
}
ALL = ONE_PASS | {"came": (TritonRounds(), {"policy": "came"})}
SIZES = 1.0, 1e-18, 1e-30, 2e-36, 3e-37, 1e-38, 1e-41, 0.0
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module", autouse=True)
def on_numpy():
    with triton_on_numpy():
        yield


@pytest.fixture
def task(monkeypatch):
    def first(options) -> Task:
        weight = torch.nn.Parameter(torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)))
        weight.grad = torch.ones(SHAPE)
        seen: list[Task] = []
        with monkeypatch.context() as patched:
            patched.setattr(updates, "run", lambda tasks, compile: seen.extend(tasks))
            HybridOptimizer([("w", weight)], lr=1e-2, compile=False, codec="int8", **options).step()
        return seen[0]

    return first


def check(backend: Backend[Task], one: Task, grads: list[torch.Tensor]) -> list[torch.Tensor]:
    """Hold a backend to the eager update, bit by bit; return the scales of the momentum after every step."""
    found = []
    assert backend.fits(one)
    for step, grad in enumerate(grads):
        one = replace(one, grad=grad, age=step + 1, step=step)
        other = copied(one)
        backend.run([one])
        with KernelOrder():
            eager(other)
        for key, wanted in (other.raw | {"weight": other.param}).items():
            got = one.param if key == "weight" else one.raw[key]
            torch.testing.assert_close(
                got, wanted, rtol=0, atol=0, equal_nan=True, msg=lambda said, k=key: f"{k}: {said}"
            )
        found.append(one.raw["exp_avg_absmax"].clone())
    return found


def test_what_is_in_memory_with_the_other_sign_is_read_as_what_it_is(monkeypatch):
    one, same = (torch.nn.Parameter(torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))) for _ in range(2))
    one.data = torch._neg_view(-one.data)
    (grad,) = normal(1)
    for p, given in ((one, torch._neg_view(-grad)), (same, grad)):
        p.grad = given
        optimizer = HybridOptimizer([("w", p)], lr=1e-2, policy="frugal", density=0.25, compile=False)
        with monkeypatch.context() as patched:
            patched.setattr(updates, "run", lambda tasks, compile: Triton().run(tasks) or {})
            optimizer.step()
    assert one.is_neg() and one.equal(same)


def test_gradients_that_lie_elsewhere_are_left_to_others(task):
    """As those of classes that hold other tensors: they have no address, or one of something else."""
    grad = TwoTensor(torch.ones(SHAPE), torch.ones(SHAPE))
    for backend, options in ONE_PASS.values():
        one = task(options)
        assert backend.fits(one) and not backend.fits(replace(one, grad=grad))


@pytest.mark.parametrize("name", ONE_PASS)
def test_state_that_was_changed_by_hand_is_left_to_others(task, name):
    backend, options = ONE_PASS[name]
    one = task(options)
    for changed in (torch.Tensor.float, lambda x: x.t().contiguous().t(), lambda x: x[1:], lambda x: x.to("meta")):
        assert not backend.fits(replace(one, raw=one.raw | {"exp_avg": changed(one.raw["exp_avg"])}))
    assert backend.fits(one)


def normal(steps: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.randn(SHAPE, generator=random) for _ in range(steps)]


@pytest.mark.parametrize("name", ALL)
def test_state_that_fades(task, name):
    backend, options = ALL[name]
    sizes = torch.tensor(SIZES).repeat(SHAPE[0] // len(SIZES))[:, None]
    most = check(backend, task(options), [x * sizes for x in normal(3)])[-1]
    assert (most == 0).any()
    assert ((most > 0) & (most < LEAST)).any() or name == "came"  # whose updates are all of one size


@pytest.mark.parametrize("name", ONE_PASS)
def test_numbers_that_are_none_are_hidden_nowhere(task, name):
    """What a kernel passes over would look like a sound state: of a block with NaN the scale is NaN, too."""
    backend, options = ONE_PASS[name]
    grads = normal(2)
    for row, odd in enumerate((NAN, -NAN, INF, -INF, 1e30, 3e38)):
        grads[0][row, ::7] = odd
        grads[0][row + 8] = odd
    first, second = check(backend, task(options), grads)
    assert first.isnan().any() and first.isinf().any() and first.isfinite().any()
    assert second[first.isnan()].isnan().all() and second.isfinite().any()
