"""A step walks a list of what a window has settled: calls of hybridopt's functions are counted, not timed."""

import pytest
import torch
from torch import nn

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer, HybridOptWarning
from hybridopt.policy.plan import Plan
from support.calls import counted
from support.models import batch, tiny_llama

COUNT = 200


def square(count=COUNT):
    """Parameters of 64 x 64, with gradients."""
    params = [(f"layers.{i}.weight", nn.Parameter(torch.randn(64, 64))) for i in range(count)]
    for _, p in params:
        p.grad = torch.randn(64, 64)
    return params


@pytest.mark.parametrize(
    ("policy", "options", "limit"),
    [
        ("adamw", {}, 22),  # one or two of them only where some model of the process is placed
        ("signsgd", {}, 22),
        ("lion", {}, 22),
        ("frugal", {"density": 0.25, "split": "columns"}, 45),
        ("frugal", {"density": 0.25, "split": "block"}, 22),
        ("badam", {}, 22),
    ],
)
def test_calls_a_tensor_and_step(policy, options, limit):
    optimizer = HybridOptimizer(square(), lr=1e-3, policy=policy, compile=False, **options)
    for _ in range(2):
        optimizer.step()
    with counted() as calls:
        optimizer.step()
    assert len(calls) / COUNT <= limit, sorted({(calls.count(name), name) for name in calls})[-15:]


@pytest.mark.parametrize(
    ("policy", "options"),
    [("adamw", {}), ("signsgd", {}), ("lion", {}), ("frugal", {"density": 0.25, "split": "columns"})],
)
def test_a_step_by_kernels_repeats_the_last_one(policy, options):
    optimizer = HybridOptimizer(square(), lr=1e-3, policy=policy, compile=True, **options)
    for _ in range(2):
        optimizer.step()
    with counted() as calls:
        optimizer.step()
    assert len(calls) / COUNT <= 2, sorted({(calls.count(name), name) for name in calls})[-15:]


def test_calls_of_a_fused_step():
    params = square()
    optimizer = HybridOptimizer(params, lr=1e-3, policy="adamw", compile=False, release="fused")
    for _ in range(3):
        loss = sum((p * p.detach()).sum() for _, p in params)
        with counted() as calls:
            loss.backward()
            optimizer.step()
    assert len(calls) / COUNT <= 64, sorted({(calls.count(name), name) for name in calls})[-15:]


def test_calls_of_a_step_of_a_model():
    model = hybridopt.wrap(tiny_llama(), policy="frugal", density=0.25, update_gap=20)
    optimizer = model.hybrid.optimizer(lr=1e-3, compile=False)
    for _ in range(3):
        model(**batch(model)).loss.backward()
        with counted() as calls:
            optimizer.step()
        optimizer.zero_grad()
    assert len(calls) <= 47 * len(list(model.parameters()))


def test_calls_of_probes():
    """The first one is watched; neither sees the noise that hybridopt itself makes."""
    model = hybridopt.wrap(tiny_llama(hidden=32), policy="mezo")
    optimizer, counts = model.hybrid.optimizer(lr=1e-4), []
    for _ in range(3):
        with counted() as calls:
            optimizer.probe(lambda: model(**batch(model)).loss)
        counts.append(len(calls))
        optimizer.step()
    assert counts[0] <= 8600 and max(counts[1:]) <= 3200


def test_what_a_window_settles_is_worked_out_once_a_window(monkeypatch):
    optimizer = HybridOptimizer(square(), lr=1e-3, policy="frugal", density=0.25, update_gap=3, compile=False)
    resolved = []
    for _ in range(6):
        with counted() as calls:
            optimizer.step()
        resolved.append(calls.count("resolve"))
    assert resolved == [0, 0, 0, COUNT, 0, 0]  # the first window's when the optimizer was made


def test_a_replaced_dtype_is_noticed_within_a_window():
    params = [("w", nn.Parameter(torch.ones(4, 4)))]
    optimizer = HybridOptimizer(params, lr=1e-3, policy="signsgd")
    ((_, p),) = params
    p.grad = torch.ones(4, 4)
    optimizer.step()
    p.data = p.data.bfloat16()
    p.grad = torch.ones(4, 4, dtype=torch.bfloat16)
    optimizer.step()
    assert type(optimizer._parameters.windows.of("w", p).store).__name__ == "Bf16Stochastic"


def test_what_is_frozen_may_become_codes_and_what_is_trained_is_refused_by_name():
    params = {name: nn.Parameter(torch.ones(4, 4)) for name in ("a", "b")}
    optimizer = HybridOptimizer(params.items(), lr=1e-3, policy="adamw")
    for p in params.values():
        p.grad = torch.ones(4, 4)
    optimizer.step()
    params["a"].requires_grad_(False).grad = None
    params["a"].data = params["a"].data.to(torch.int8)
    with pytest.warns(HybridOptWarning, match="'a' .* was frozen since the last step"):
        optimizer.step()
    params["b"].data = params["b"].data.to(torch.float8_e4m3fn)
    params["b"].grad = torch.ones(4, 4).to(torch.float8_e4m3fn)
    optimizer.nonfinite = "ignore"
    with pytest.raises(HybridOptError, match="'b' has dtype torch.float8_e4m3fn now"):
        optimizer.step()


@pytest.mark.parametrize("policy", ["adamw", "lion", "frugal"])
def test_a_model_that_becomes_float64_goes_on_in_its_window(policy):
    params = square(2)
    optimizer = HybridOptimizer(params, lr=1e-3, policy=policy, compile=False)
    optimizer.step()
    for _, p in params:
        p.data, p.grad = p.data.double(), None
        p.grad = torch.randn(64, 64, dtype=torch.float64)
    before = [p.clone() for _, p in params]
    optimizer.step()
    assert all(not torch.equal(p, old) and p.isfinite().all() for (_, p), old in zip(params, before, strict=True))
    assert optimizer.state[params[0][1]]["step"] == 2


def test_the_plan_of_a_wrapped_model_is_made_once(monkeypatch):
    made, real = [], Plan.of
    monkeypatch.setattr(Plan, "of", staticmethod(lambda *given: made.append(1) or real(*given)))
    model = hybridopt.wrap(tiny_llama(), policy="frugal")
    model.hybrid.report()
    model.hybrid.optimizer(lr=1e-3)
    model.hybrid.optimizer(lr=1e-4)
    assert len(made) == 1
