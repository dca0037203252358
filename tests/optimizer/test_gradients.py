"""Gradients that are missing, frozen away, accumulated or clipped; and what a step leaves alone."""

import gc
import weakref

import pytest
import torch

from hybridopt import HybridOptError, HybridOptimizer
from hybridopt.optimizer.gradients import reductions
from support.training import advance, assert_same, clock, give, optimize, snapshot, state_of, tensors, twin, values

POLICIES = ("frugal", "adamw", "galore", "badam", "signsgd")


@pytest.mark.parametrize("policy", POLICIES)
def test_no_gradients_is_no_step(policy):
    params = tensors()
    optimizer = optimize(params, policy=policy)
    for _ in range(3):
        before = snapshot(optimizer, params)
        optimizer.zero_grad()
        optimizer.step()
        assert_same(before, snapshot(optimizer, params))
        advance(optimizer, params, 2)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lr_zero_leaves_every_bit_of_the_weights(policy, dtype):
    params = tensors(dtype=dtype)
    optimizer = optimize(params, policy=policy, lr=0.0, weight_decay=0.1)
    before = values(params)
    advance(optimizer, params, 5)
    assert_same(before, values(params))


@pytest.mark.parametrize("policy", ["frugal", "adamw", "galore", "signsgd"])
def test_zero_gradients_move_nothing(policy):
    params = tensors()
    optimizer = optimize(params, policy=policy)
    before = values(params)
    for _ in range(4):
        for p in params.values():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert_same(before, values(params))


@pytest.mark.parametrize("policy", POLICIES)
def test_gradients_identity_and_storage_stay_and_versions_move(policy):
    params = tensors()
    optimizer = optimize(params, policy=policy)
    for step in range(4):
        give(params, step)
        before = {n: (id(p), p.data_ptr(), p._version, p.grad, p.grad.clone()) for n, p in params.items()}
        moved = values(params)
        optimizer.step()
        for name, p in params.items():
            own, pointer, version, grad, value = before[name]
            assert (id(p), p.data_ptr()) == (own, pointer) and p.is_leaf and p.requires_grad
            assert p.grad is grad and grad.equal(value)
            assert p.detach().equal(moved[name]) or p._version > version


def test_some_gradients_missing():
    params = tensors()
    optimizer = optimize(params)
    for step in range(7):
        give(params, step)
        missing = list(params)[step % 4]
        params[missing].grad = None
        before = values(params)
        optimizer.step()
        same = {n for n, p in params.items() if p.detach().equal(before[n])}
        assert same == {missing}
    assert clock(optimizer) == [7] * len(optimizer.param_groups)


def test_freezing_and_unfreezing_on_the_way():
    params, others = tensors(), tensors()
    optimizer, plain = optimize(params, policy="adamw"), torch.optim.AdamW(others.values(), 0.01, weight_decay=0)
    for step in range(8):
        for named, own in ((params, optimizer), (others, plain)):
            frozen = 2 <= step < 5
            named["a.0.weight"].requires_grad_(not frozen)
            own.zero_grad()
            loss = sum((p**2 * (1 + step)).sum() for p in named.values())
            loss.backward()
            own.step()
        assert (params["a.0.weight"].grad is None) == frozen
        for name, p in params.items():
            torch.testing.assert_close(p, others[name], rtol=1e-6, atol=1e-7)


def test_frozen_from_the_start_has_no_state_and_does_not_move():
    params = tensors()
    params["a.0.weight"].requires_grad_(False)
    optimizer = optimize(params)
    before = params["a.0.weight"].detach().clone()
    for _ in range(4):
        optimizer.zero_grad()
        sum(p.square().sum() for p in params.values()).backward()
        optimizer.step()
    assert params["a.0.weight"].equal(before) and params["a.0.weight"] not in optimizer.state


def test_all_switched_off_is_said():
    params = tensors()
    optimizer = optimize(params)
    advance(optimizer, params, 1)
    optimizer.zero_grad()
    for p in params.values():
        p.requires_grad_(False)
    with pytest.raises(HybridOptError, match="a.0.weight.*requires_grad=False"):
        optimizer.step()


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_keeps_parameters_or_optimizer_alive(policy):
    params = tensors()
    optimizer = optimize(params, policy=policy)
    sum(p.square().sum() for p in params.values()).backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    gone = [weakref.ref(p) for p in params.values()] + [weakref.ref(optimizer)]
    del params, optimizer
    gc.collect()
    assert all(ref() is None for ref in gone)


def test_accumulated_gradients_are_the_sum():
    params, others = tensors(), tensors()
    one, other = optimize(params), optimize(others)
    for _ in range(3):
        for named, optimizer, times in ((params, one, 4), (others, other, 1)):
            optimizer.zero_grad()
            for _ in range(times):
                (sum(p.square().sum() for p in named.values()) / times).backward()
            optimizer.step()
    for name, p in params.items():
        torch.testing.assert_close(p, others[name])


def test_clipping_before_the_step():
    params, others = tensors(), tensors()
    one, other = (optimize(p, full="momentum", free="sgd") for p in (params, others))
    give(params, 0)
    give(others, 0)
    norm = torch.nn.utils.clip_grad_norm_(params.values(), 1.0)
    for p in others.values():
        p.grad.mul_(1 / (norm + 1e-6))
    one.step()
    other.step()
    for name, p in params.items():
        torch.testing.assert_close(p, others[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("size", [40, 41 * 17])
def test_norms_of_large_gradients_are_those_of_small_ones(size, dtype, monkeypatch):
    grad = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(dtype)
    monkeypatch.setattr(reductions, "PIECE", 64)
    found = reductions.norm(grad)
    assert found.dtype == torch.float32 and found.shape == ()
    torch.testing.assert_close(found, grad.double().norm().float())
    grad[-1] = float("nan")
    assert reductions.norm(grad).isnan()


def test_two_optimizers_share_nothing():
    params = tensors()
    others = twin(params)
    one, other = optimize(params), optimize(others)
    advance(one, params, 3)
    assert not state_of(other, others) and clock(other) == [0] * len(other.param_groups)


def test_frozen_policies_are_refused():
    frozen = dict.fromkeys(("embeddings", "norms", "biases", "head", "adapters"), "frozen")
    with pytest.raises(HybridOptError, match="nothing to train"):
        HybridOptimizer([("a.norm.weight", torch.nn.Parameter(torch.ones(3)))], **frozen)


@pytest.mark.parametrize("mode", ["global", "tensor"])
def test_gradients_that_are_small_enough_are_not_written(mode):
    params = tensors()
    optimizer = optimize(params, clip=2.0, clip_mode=mode)
    for size, written in ((0.5, False), (1.5, False), (8.0, True)):
        for p in params.values():
            p.grad = torch.zeros_like(p)
            p.grad.view(-1)[0] = size / (1 if mode == "tensor" else len(params) ** 0.5)
        grads, before = [p.grad for p in params.values()], [p.grad._version for p in params.values()]
        kept = [grad.clone() for grad in grads]
        optimizer.step()
        for grad, version, old in zip(grads, before, kept, strict=True):
            assert (grad._version != version) == written == (not grad.equal(old))
