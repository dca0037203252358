"""Weights of 24 bits: what is kept of them where, in how many bytes, through windows, slices and resumption."""

import copy
import io

import pytest
import torch

from hybridopt import HybridOptError, HybridOptimizer, Policy, Route, Treatment, wrap
from hybridopt.core.numerics.split_floats import joined, parted
from hybridopt.execution import slices
from hybridopt.execution.backends import _compiled_kernels as kernels
from hybridopt.execution.backends import banks, compiled
from hybridopt.parts import SGD, SPSA, Bf16Split, Empty, SignSGD
from support import models
from support.training import assert_same, give, gradient, optimize, snapshot, state_bytes, tensors

SHAPES = {"layers.0.w": (24, 16), "layers.1.w": (24, 16), "layers.2.w": (3, 8, 10), "norm.weight": (7,)}
POLICIES = {
    "adamw": {"policy": "adamw"},
    "companded8": {"policy": "adamw", "codec": {"part": "codecs.companded8", "exact_below": 0, "block": 16}},
    "columns": {"policy": "frugal", "density": 0.5, "update_gap": 3},
    "kept": {"policy": "frugal", "density": 0.5, "update_gap": 3, "reset": False, "free": "sgd"},
    "block": {"policy": "frugal", "density": 0.5, "update_gap": 3, "split": "block"},
    "svd": {"policy": "galore", "density": 0.5, "update_gap": 3},
    "swan": {"policy": "swan"},
    "sinkhorn": {"policy": "frugal", "density": 0.5, "update_gap": 3, "free": "sinkhorn"},
}


def split_optimizer(params, **options):
    return optimize(params, store="bf16_split", **{"lr": 1e-3, "weight_decay": 0.1} | options)


def halves(seed=0):
    return {n: torch.nn.Parameter(p.detach().bfloat16()) for n, p in tensors(SHAPES, seed=seed).items()}


def exact(optimizer, params):
    """The weights of 24 bits, by name."""
    return {n: joined(p.detach(), optimizer.state[p]["weight.low"]) for n, p in params.items()}


def run(optimizer, params, start, end):
    for step in range(start, end):
        give(params, step)
        optimizer.step()
    return snapshot(optimizer, params)


def test_floats_of_24_bits_come_back_whole():
    random = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31 - 1, (200_000,), generator=random, dtype=torch.int64).to(torch.int32)
    x = bits.view(torch.float32)
    x = x[x.isfinite() & (x.abs() < 3e38)]
    high, low = parted(x)
    assert (high.dtype, low.dtype) == (torch.bfloat16, torch.int8)
    back = joined(high, low)
    near = back.bfloat16().float()
    assert ((back - high.float()).abs() <= (back - near).abs()).all(), "not the nearest bfloat16"
    normal = x.abs() > 1.2e-38
    assert ((back - x).abs() <= 2.0**-16 * x.abs())[normal].all()
    assert all(one.equal(two) for one, two in zip(parted(back), (high, low), strict=True))
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    every = every[every.isfinite()]
    assert parted(every.float())[0].view(torch.int16).equal(every.view(torch.int16))
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0])
    assert repr(joined(*parted(odd)).tolist()) == "[nan, inf, -inf, 0.0, -0.0]"


@pytest.mark.parametrize("name", ["adamw", "columns", "block", "kept", "sinkhorn"])
def test_it_is_training_in_float32_to_24_bits_over_all_windows(name):
    params, masters = halves(), {n: torch.nn.Parameter(p.detach().float()) for n, p in halves().items()}
    options = {"lr": 1e-4, "weight_decay": 0.1, **POLICIES[name]}
    optimizer, master = split_optimizer(params, **options), optimize(masters, **options)
    for step in range(10):
        for n, p in params.items():
            p.grad = gradient(n, p.shape, step).bfloat16()
            masters[n].grad = p.grad.float()
        optimizer.step()
        master.step()
    off = [(exact(optimizer, params)[n] - w).abs().max() / w.abs().max() for n, w in masters.items()]
    assert max(off) < 10 * 2**-16
    assert all(p.equal(parted(w)[0]) for p, w in zip(params.values(), exact(optimizer, params).values(), strict=True))


def test_tiny_steps_arrive():
    p = torch.nn.Parameter(torch.full((64, 64), 0.02, dtype=torch.bfloat16))
    optimizer = split_optimizer({"layers.0.w": p}, policy="frugal", density=0.0, lr=1e-5, weight_decay=0.0)
    start = p.detach().float()
    for _ in range(20):
        p.grad = torch.ones_like(p)
        optimizer.step()
    moved = start - exact(optimizer, {"w": p})["w"]
    torch.testing.assert_close(moved, torch.full_like(moved, 2e-4), rtol=0.01, atol=0)


@pytest.mark.parametrize("release", ["accumulate", "fused"])
def test_adamw_in_seven_bytes_and_in_five(release):
    p = torch.nn.Parameter(torch.randn(256, 256, generator=torch.Generator().manual_seed(0)).bfloat16())
    optimizer = split_optimizer({"layers.0.w": p}, policy="adamw", codec="companded8", release=release)
    (p.float() ** 2).sum().backward()
    gradients = 0 if p.grad is None else p.grad.nbytes
    optimizer.step()
    scales = 2 * 4 / 128
    assert p.nbytes + gradients + state_bytes(optimizer) == (5 + scales + 2 * (release == "accumulate")) * p.numel()


@pytest.mark.parametrize("cut", [2, 3, 4])
@pytest.mark.parametrize("name", POLICIES)
def test_a_resumed_run_goes_on_bit_for_bit(name, cut):
    params = halves()
    optimizer = split_optimizer(params, **POLICIES[name])
    run(optimizer, params, 0, cut)
    file = io.BytesIO()
    torch.save((optimizer.state_dict(), {n: p.detach() for n, p in params.items()}), file)
    file.seek(0)
    state, weights = torch.load(file, weights_only=True)
    others = {n: torch.nn.Parameter(w) for n, w in weights.items()}
    resumed = split_optimizer(others, **POLICIES[name])
    resumed.load_state_dict(state)
    twins, twin = copy.deepcopy((params, optimizer))
    wanted = run(optimizer, params, cut, 8)
    assert_same(run(resumed, others, cut, 8), wanted)
    assert_same(run(twin, twins, cut, 8), wanted)


@pytest.mark.parametrize("name", ["adamw", "columns", "sinkhorn"])
def test_stacks_slices_and_kernels_write_the_same_weights(name, monkeypatch):
    def weights():
        params = halves()
        optimizer = split_optimizer(params, compile=kernels._compile is not real, **POLICIES[name])
        run(optimizer, params, 0, 5)
        return exact(optimizer, params)

    real = kernels._compile
    stacked = weights()
    monkeypatch.setattr(banks.Banks, "fits", lambda self, task: False)
    alone = weights()
    monkeypatch.setattr(slices, "ELEMENTS", {"cpu": 64})
    sliced = weights()
    monkeypatch.setattr(compiled, "SMALLEST", 1)
    monkeypatch.setattr(kernels, "_kernels", {})
    monkeypatch.setattr(kernels, "_compile", lambda function, param: function)
    traced = weights()
    for other in (stacked, sliced, traced):
        torch.testing.assert_close(other, alone, rtol=2**-15, atol=1e-7)


def test_the_model_is_plain_bfloat16_and_learns():
    model = wrap(models.tiny_llama().bfloat16(), policy="frugal", store="bf16_split", update_gap=2)
    names = list(model.state_dict())
    optimizer, losses = model.hybrid.optimizer(lr=3e-3, release="fused"), []
    for _ in range(6):
        loss = model(**models.batch(model)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert list(model.state_dict()) == names and {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert state_bytes(optimizer) == model.hybrid.report().totals.state_bytes
    assert all("weight.low" in optimizer.state[p] for p in model.parameters())


def test_probes_train_them_too():
    for rule in (SGD(), SignSGD()):
        params = halves()
        use = Treatment(source=SPSA(1e-2), free=rule, split=Empty(), store=Bf16Split())
        optimizer = HybridOptimizer(params.items(), lr=1e-4, policy=Policy((Route(use),)))
        before = {n: p.detach().clone() for n, p in params.items()}
        for _ in range(3):
            optimizer.probe(lambda p=params: float(sum(x.detach().float().square().sum() for x in p.values())))
            optimizer.step()
        assert all(not exact(optimizer, params)[n].equal(w.float()) for n, w in before.items())
        assert all(p.equal(parted(exact(optimizer, params)[n])[0]) for n, p in params.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(
        HybridOptError,
        match=r"'norm\.weight'.*its store keeps other dtypes \(bf16_split\); convert it to bfloat16, leave the",
    ):
        split_optimizer({"norm.weight": torch.nn.Parameter(torch.ones(4, dtype=dtype))})


def test_states_without_the_remainder_or_with_another_are_refused():
    params = halves()
    optimizer = split_optimizer(params, policy="adamw")
    wanted = run(optimizer, params, 0, 2)
    saved = optimizer.state_dict()
    for change in (lambda s: s.pop("weight.low"), lambda s: s.update({"weight.low": s["weight.low"].int()})):
        spoilt = copy.deepcopy(saved)
        change(spoilt["state"][0])
        with pytest.raises(HybridOptError, match=r"weight\.low"):
            optimizer.load_state_dict(spoilt)
    plain = optimize(halves(), policy="adamw")
    with pytest.raises(HybridOptError, match="was trained as"):
        plain.load_state_dict(saved)
    assert_same(snapshot(optimizer, params), wanted)
