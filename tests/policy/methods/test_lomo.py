"""SGD without state: LOMO, IP-SGD, SGD without momentum, its momentum beside it, and gradients over their norm."""

import pytest
import torch

from hybridopt import HybridOptError
from hybridopt.core.registry import make
from hybridopt.parts.rules.normalized_sgd import NormalizedSGD
from support.rule_driver import directions, extremes
from support.training import advance, give, optimize, state_bytes, tensors, twin, values

SHAPES = {"a.0.weight": (12, 8), "a.0.bias": (12,), "a.1.weight": (2, 6, 5), "a.1.norm": (6,), "head.weight": (4, 4)}
SHAPES |= {"a.scale": (3,)}  # of no role in particular
LR = 0.03
STATE_FREE = {"lomo": ("lomo", {}), "ip_sgd": ("ip-sgd", {}), "sgd": ("sgd", {"momentum": 0})}


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def torch_sgd(params, **options):
    """The weights by torch.optim.SGD."""
    copies = twin(params)
    optimizer = torch.optim.SGD(copies.values(), lr=LR, **options)
    for step in range(8):
        give(copies, step)
        optimizer.step()
    return copies


def assert_close(params, wanted):
    for name, p in params.items():
        torch.testing.assert_close(p, wanted[name], rtol=1e-12, atol=1e-13, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("policy", "options"), STATE_FREE.values(), ids=STATE_FREE)
def test_as_torch_without_state(policy, options):
    params = tensors(SHAPES, torch.float64)
    wanted, optimizer = torch_sgd(params), optimize(params, policy=policy, lr=LR, **options)
    advance(optimizer, params, 8)
    assert_close(params, wanted)
    assert state_bytes(optimizer) == 0


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_as_torch(nesterov):
    params = tensors(SHAPES, torch.float64)
    wanted = torch_sgd(params, momentum=0.8, nesterov=nesterov)
    optimizer = optimize(params, policy="sgd", lr=LR, momentum=0.8, nesterov=nesterov)
    advance(optimizer, params, 8)
    assert_close(params, wanted)
    assert state_bytes(optimizer) == 8 * sum(p.numel() for p in params.values())


@pytest.mark.parametrize(("policy", "options"), STATE_FREE.values(), ids=STATE_FREE)
def test_weights_decay_but_norms_and_biases_do_not(policy, options):
    params = tensors(SHAPES)
    before = values(params)
    optimizer = optimize(params, policy=policy, lr=LR, weight_decay=0.5, **options)
    for p in params.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in params.items():
        left = 1 if name in ("a.0.bias", "a.1.norm") else 1 - LR * 0.5
        torch.testing.assert_close(p.detach(), before[name] * left)


@pytest.mark.parametrize("policy", ["lomo", "ip_sgd"])
def test_places_may_be_state_full_or_frozen(policy):
    params = tensors(SHAPES)
    before = values(params)
    optimizer = optimize(params, policy=policy, head="full", norms="frozen", biases="full")
    advance(optimizer, params, 2)
    full = {name for name, p in params.items() if optimizer.state[p].get("exp_avg") is not None}
    assert full == {"head.weight", "a.0.bias"}
    still = {name for name, p in params.items() if p.detach().equal(before[name])}
    assert still == {"a.1.norm"}


def test_places_of_sgd():
    params = tensors(SHAPES)
    optimizer = optimize(params, policy="sgd", head="free", norms="frozen")
    advance(optimizer, params, 2)
    kept = {name for name, p in params.items() if "momentum_buffer" in optimizer.state[p]}
    assert kept == set(SHAPES) - {"head.weight", "a.1.norm"}


def test_the_momentum_may_be_compressed():
    params = tensors({"w": (64, 160)})
    optimizer = optimize(params, policy="sgd", codec="int8")
    advance(optimizer, params, 3)
    assert state_bytes(optimizer) == 64 * 160 * (1 + 4 / 256)


@pytest.mark.parametrize(
    ("policy", "options", "text"),
    [
        ("sgd", {"momentum": 1.0}, "momentum=1.0"),
        ("sgd", {"momentum": 0, "nesterov": True}, "nesterov=True needs momentum"),
        ("sgd", {"dampening": 0.1}, "'dampening'.*momentum"),
        ("lomo", {"head": "none"}, "head='none'.*free"),
        ("ip_sgd", {"codec": "int8"}, "'codec'"),
    ],
)
def test_bad_options(policy, options, text):
    with pytest.raises(HybridOptError, match=text):
        optimize(tensors(), policy=policy, **options)


# ---- gradients over their norm


def test_one_norm_for_a_matrix():
    grad = numbers(2, 5, 6, seed=3)
    found = directions(NormalizedSGD(), [grad])[0][0]
    for direction, g in zip(found, grad, strict=True):
        torch.testing.assert_close(direction, g / torch.linalg.matrix_norm(g))
    torch.testing.assert_close(torch.linalg.matrix_norm(found), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("cuts", [(1,), (2, 4), tuple(range(1, 7))], ids=str)
def test_slices_give_the_result_of_the_whole(cuts):
    grad = numbers(3, 7, 4)
    whole, sliced = (directions(NormalizedSGD(), [grad], cuts=c)[0][0] for c in ((), cuts))
    torch.testing.assert_close(sliced, whole, rtol=1e-14, atol=0)


@pytest.mark.parametrize("eps", [0, 1e-8])
@pytest.mark.parametrize("case", extremes())
def test_extreme_gradients_stay_finite(case, eps):
    for grad in extremes()[case]:
        direction = directions(NormalizedSGD(eps), [grad], dtype=torch.float32)[0][0]
        assert direction.isfinite().all() and direction.norm() <= 1.0001
        assert (direction[grad == 0] == 0).all()


def test_eps_is_added_to_the_norm():
    grad = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(directions(NormalizedSGD(5.0), [grad], dtype=torch.float32)[0][0], grad / 10)
    with pytest.raises(HybridOptError, match="normalized_sgd: eps=-1"):
        make("rules", "normalized_sgd", eps=-1)


def test_it_serves_as_the_state_free_rule():
    params = tensors({"a.0.weight": (12, 8)}, torch.float64)
    before = values(params)["a.0.weight"]
    optimizer = optimize(params, free="normalized_sgd", density=0.0, lr=LR)
    advance(optimizer, params, 1)
    grad = params["a.0.weight"].grad
    torch.testing.assert_close(params["a.0.weight"].detach(), before - LR * grad / (grad.norm() + 1e-8))
    assert state_bytes(optimizer) == 0
