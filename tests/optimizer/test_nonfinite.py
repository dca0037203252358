"""Gradients that no step can use: sparse, infinite, NaN; and those that it must: huge and tiny."""

import pytest
import torch

from hybridopt import HybridOptError, HybridOptWarning
from support.training import advance, assert_same, give, optimize, snapshot, tensors

POLICIES = ("frugal", "adamw", "galore", "badam", "signsgd")


@pytest.mark.parametrize("nonfinite", ["raise", "skip", "ignore"])
def test_sparse_gradients_are_refused_before_anything_is_changed(nonfinite):
    params = tensors()
    optimizer = optimize(params, nonfinite=nonfinite)
    advance(optimizer, params, 2)
    give(params, 2)
    params["a.1.weight"].grad = params["a.1.weight"].grad.to_sparse()
    before = snapshot(optimizer, params)
    with pytest.raises(RuntimeError, match="a.1.weight.*sparse"):
        optimizer.step()
    assert_same(before, snapshot(optimizer, params))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["a.0.weight", "a.1.norm"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_gradient_that_is_not_finite(policy, where, bad):
    params = tensors()
    optimizer = optimize(params, policy=policy)
    advance(optimizer, params, 2)
    give(params, 2)
    params[where].grad.view(-1)[1] = bad
    before = snapshot(optimizer, params)
    with pytest.raises(HybridOptError, match=f"{where}.*not finite at step 2.*nothing was changed"):
        optimizer.step()
    assert_same(before, snapshot(optimizer, params))
    optimizer.nonfinite = "skip"
    with pytest.warns(HybridOptWarning, match=f"{where}.*not finite.*skipped") as caught:
        optimizer.step()
    assert caught[0].filename == __file__
    assert_same(before, snapshot(optimizer, params))
    give(params, 3)
    optimizer.step()
    assert all(p.isfinite().all() for p in params.values())


def test_infinities_of_both_signs_do_not_cancel():
    params = tensors()
    optimizer = optimize(params)
    give(params, 0)
    params["a.0.weight"].grad[0, 0], params["a.0.weight"].grad[1, 1] = float("inf"), -float("inf")
    with pytest.raises(HybridOptError, match="not finite"):
        optimizer.step()


def test_ignored_nan_stays_in_its_parameter():
    params, others = tensors(), tensors()
    one, other = optimize(params, nonfinite="ignore"), optimize(others)
    give(params, 0)
    give(others, 0)
    params["a.0.weight"].grad[0, 0] = float("nan")
    one.step()
    other.step()
    for name in ("a.0.bias", "a.1.weight", "a.1.norm"):
        assert params[name].equal(others[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("size", [1e20, 1e-38, 0.0])
def test_huge_and_tiny_gradients_keep_the_weights_finite(size, codec, dtype):
    params = tensors({"w": (64, 80), "norm": (8,)}, dtype)
    optimizer = optimize(params, codec=codec, lr=0.01)
    for step in range(4):
        for p in params.values():
            sign = torch.where(torch.arange(p.numel()) % 3 == step % 3, -1.0, 1.0).view(p.shape)
            p.grad = (sign * size).to(dtype)
        optimizer.step()
    assert all(p.isfinite().all() for p in params.values())


@pytest.mark.parametrize("policy", POLICIES)
def test_half_precision_stays_finite(policy):
    params = tensors(dtype=torch.float16)
    optimizer = optimize(params, policy=policy)
    for step in range(4):
        give(params, step)
        for p in params.values():
            p.grad.mul_(3e-8 if step % 2 else 3e3)
        optimizer.step()
    assert all(p.isfinite().all() for p in params.values())
