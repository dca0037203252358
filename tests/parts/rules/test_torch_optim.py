"""Everything state-full is torch's own optimizer, everything state-free is lr * sign(g), whatever the policy says."""

import pytest
import torch

from hybridopt import HybridOptimizer, Policy, Route, Treatment
from hybridopt.core.registry import make
from support.training import SHAPES, assert_same, give, optimize, tensors, twin, values

WHOLE = ("columns", "rows", "randk", "svd", "random", "block")


def race(mine, theirs, params, others, steps=8, rtol=1e-6):
    """Steps on equal gradients, one of them without a gradient somewhere; equal weights after each."""
    for step in range(steps):
        for each in (params, others):
            give(each, step)
            if step == 3:
                each["a.0.weight"].grad = None
        mine.step()
        theirs.step()
        for name, p in params.items():
            torch.testing.assert_close(p, others[name], rtol=rtol, atol=rtol / 5)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_adamw(dtype, decay):
    params = tensors(dtype=dtype)
    others = twin(params)
    policy = Policy((Route(Treatment(full=make("rules", "adamw", betas=(0.8, 0.95), eps=1e-6))),))
    mine = HybridOptimizer(params.items(), lr=0.01, weight_decay=decay, policy=policy)
    theirs = torch.optim.AdamW(others.values(), lr=0.01, weight_decay=decay, betas=(0.8, 0.95), eps=1e-6)
    race(mine, theirs, params, others, rtol=1e-6 if dtype == torch.float32 else 1e-13)


def test_the_adamw_policy_spares_norms_and_biases_from_decay():
    params = tensors()
    others = twin(params)
    mine = optimize(params, policy="adamw", weight_decay=0.1)
    matrices = [p for n, p in others.items() if p.ndim > 1]
    vectors = [p for n, p in others.items() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    race(mine, torch.optim.AdamW(groups, lr=0.01), params, others)


@pytest.mark.parametrize("split", WHOLE)
def test_density_one_is_adamw(split):
    params = tensors()
    others = twin(params)
    mine = optimize(params, density=1.0, split=split, reset=False, update_gap=2)
    race(mine, torch.optim.AdamW(others.values(), lr=0.01, weight_decay=0.0), params, others)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("dampening", [0.0, 0.3])
def test_momentum(nesterov, dampening):
    if nesterov and dampening:
        return
    params = tensors()
    others = twin(params)
    rule = make("rules", "momentum", momentum=0.8, dampening=dampening, nesterov=nesterov)
    mine = HybridOptimizer(params.items(), lr=0.05, policy=Policy((Route(Treatment(full=rule)),)))
    theirs = torch.optim.SGD(others.values(), 0.05, momentum=0.8, dampening=dampening, nesterov=nesterov)
    race(mine, theirs, params, others)


def test_sgd_without_state():
    params = tensors()
    others = twin(params)
    everywhere = dict.fromkeys(("embeddings", "norms", "biases", "head"), "free")
    mine = optimize(params, density=0.0, free="sgd", **everywhere)
    race(mine, torch.optim.SGD(others.values(), 0.01), params, others)
    assert not mine.state


@pytest.mark.parametrize("split", WHOLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_density_zero_is_lr_times_sign_to_the_bit(split, dtype):
    params = tensors(dtype=dtype)
    mine = optimize(params, density=0.0, split=split, lr=0.03, norms="free", biases="free")
    for step in range(5):
        before = values(params)
        give(params, step)
        mine.step()
        assert_same(values(params), {n: before[n] - 0.03 * p.grad.sign() for n, p in params.items()})
    assert not mine.state


def test_the_signsgd_policy_is_lr_times_sign_to_the_bit():
    params = tensors()
    mine = optimize(params, policy="signsgd", lr=0.03)
    before = values(params)
    give(params, 0)
    params["a.0.weight"].grad[0] = 0
    mine.step()
    assert_same(values(params), {n: before[n] - 0.03 * p.grad.sign() for n, p in params.items()})
    assert {g["tag"] for g in mine.param_groups} == {"state-free"}


def test_two_groups_are_two_optimizers():
    params, others = tensors(), tensors()
    names, rates = list(SHAPES), ({"lr": 0.1, "weight_decay": 0.0}, {"lr": 0.02, "weight_decay": 0.5})

    def groups(named):
        pairs = [(n, named[n]) for n in names]
        return [{"params": pairs[:2], **rates[0]}, {"params": pairs[2:], **rates[1]}]

    together = HybridOptimizer(groups(params), density=0.5, update_gap=2)
    apart = [HybridOptimizer([group], density=0.5, update_gap=2) for group in groups(others)]
    for step in range(6):
        give(params, step)
        give(others, step)
        for each in (together, *apart):
            each.step()
        assert_same(values(params), values(others))


@pytest.mark.parametrize("policy", ["adamw", "frugal", "galore", "badam", "signsgd"])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_loss_goes_down(policy, transposed):
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 8, generator=random), torch.randn(32, 4, generator=random)
    made = [torch.randn(8, 8, generator=random) * 0.3, torch.randn(8, 4, generator=random) * 0.3]
    named = [
        (f"layers.{i}.weight", torch.nn.Parameter(w.T.contiguous().T if transposed else w)) for i, w in enumerate(made)
    ]
    optimizer = HybridOptimizer(named, lr=0.01, policy=policy)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    losses = []
    for _ in range(40):
        loss = (torch.tanh(x @ named[0][1]) @ named[1][1] - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]
