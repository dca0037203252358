"""Fused release where reading a number would wait for a device: flags guard updates, and are read in `step()`."""

from contextlib import nullcontext

import pytest
import torch

from hybridopt import HybridOptError, HybridOptWarning
from hybridopt.execution.backends import _compiled_kernels as kernels
from hybridopt.execution.backends import compiled
from hybridopt.execution.cpp import builder
from hybridopt.optimizer.releases import _flags, fused
from hybridopt.parts.stores._int8_weight import Int8Weight
from support.training import assert_same, clock, gradient, optimize, snapshot, state_of, tensors, values

SHAPES = {"layers.0.w": (12, 8), "layers.0.b": (12,), "layers.1.w": (6, 20), "norm.w": (6,)}
BAD = "layers.0.w"
POLICIES = {
    "adamw": {"policy": "adamw", "weight_decay": 0.1},
    "signsgd": {"policy": "signsgd", "weight_decay": 0.1},
    "columns": {"weight_decay": 0.1},
    "rows": {"split": "rows", "codec": "bf16"},
    "int8": {"codec": {"part": "codecs.int8", "exact_below": 0}},
    "adalomo": {"policy": "adalomo"},
    "muon": {"policy": "muon"},
    "sinkhorn": {"free": "sinkhorn", "weight_decay": 0.1},
    "whiten": {"free": "whiten"},
    "svd": {"split": "svd", "full": "momentum"},
    "random": {"split": "random", "reset": False},
    "galore": {"policy": "galore", "density": 0.5, "update_gap": 2, "spread": False},
    "qgalore": {"policy": "qgalore", "density": 0.5, "update_gap": 2, "spread": False},
    "ip_sgd": {"policy": "ip_sgd"},
}
READS = ("__bool__", "__float__", "__int__", "__index__", "item", "tolist", "numpy", "cpu")


@pytest.fixture
def waits(monkeypatch):
    """Let the CPU be taken for a device that runs behind, and kernels be the functions that are compiled to them."""
    monkeypatch.setattr(fused, "reading_waits", lambda device: True)
    monkeypatch.setattr(kernels, "_compile", lambda function, param: function)
    monkeypatch.setattr(kernels, "_kernels", {})
    monkeypatch.setattr(builder, "available", lambda: False)
    monkeypatch.setattr(compiled, "SMALLEST", 1)


@pytest.fixture
def reads(monkeypatch):
    """Count the flags of a step whenever they are read, and refuse any other look at one."""
    counts = []
    read = _flags.Flags.not_finite
    monkeypatch.setattr(_flags.Flags, "not_finite", lambda flags: counts.append(len(flags._of)) or read(flags))
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda x: pytest.fail("a flag is read before the step ends"))
    return counts


def made(name="adamw", dtype=torch.bfloat16, **options):
    params = tensors(SHAPES, dtype)
    return params, optimize(params, release="fused", **{"compile": True} | POLICIES[name] | options)


def backward(params, step, bad=(), value=float("nan")):
    """A backward pass with some gradients that are not finite: those of the last parameters come first."""
    terms = []
    for name, p in params.items():
        grad = gradient(name, p.shape, step).to(p.dtype)
        if name in bad:
            grad.view(-1)[0] = value
        terms.append((p * grad).sum())
    sum(terms).backward()


def train(params, optimizer, steps, start=0):
    for step in range(start, start + steps):
        backward(params, step)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", POLICIES)
def test_true_flags_change_nothing(name, dtype, monkeypatch, request):
    plain, one = made(name, dtype)
    request.getfixturevalue("waits")
    monkeypatch.setattr(fused, "reading_waits", lambda device: False)
    train(plain, one, 4)
    monkeypatch.setattr(fused, "reading_waits", lambda device: True)
    guarded, other = made(name, dtype)
    train(guarded, other, 4)
    assert_same(snapshot(one, plain), snapshot(other, guarded))
    assert_same(one.grad_norm, other.grad_norm)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", POLICIES)
def test_a_false_flag_leaves_weight_and_state(name, dtype, waits):
    params, optimizer = made(name, dtype, nonfinite="skip")
    train(params, optimizer, 2)
    before = params[BAD].detach().clone(), state_of(optimizer, params).get(BAD)
    others = values(params)
    with pytest.warns(HybridOptWarning, match=f"{BAD}.*not finite at step 2; this parameter is skipped"):
        backward(params, 2, [BAD])
        optimizer.step()
    assert_same(before, (params[BAD].detach(), state_of(optimizer, params).get(BAD)))
    assert not any(p.equal(others[name]) for name, p in params.items() if name != BAD)
    train(params, optimizer, 2, 3)
    assert clock(optimizer) == [5] * len(optimizer.param_groups)
    assert all(p.isfinite().all() and p.grad is None for p in params.values())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["adamw", "columns", "signsgd", "muon", "svd", "random", "galore", "qgalore"])
def test_skipped_parameters_go_on_as_on_a_cpu(name, value, waits, monkeypatch):
    """The same weights, state, clocks, windows and bases as where every flag is read at once."""
    found = []
    for reading in (True, False):
        monkeypatch.setattr(fused, "reading_waits", lambda device, reading=reading: reading)
        params, optimizer = made(name, nonfinite="skip")
        for step, bad in enumerate([[BAD], [], ["norm.w", BAD], [BAD], [], [BAD], []]):
            with pytest.warns(HybridOptWarning, match="skipped") if bad else nullcontext():
                backward(params, step, bad, value)
                optimizer.step()
        found.append(snapshot(optimizer, params))
    assert_same(*found)


@pytest.mark.parametrize("bad_at", [0, 3, 6])
@pytest.mark.parametrize("name", ["random", "galore", "qgalore", "columns"])
def test_what_was_taken_back_is_saved_and_goes_on(name, bad_at, waits):
    """A new window begins at 0 and 6, and at 3 with some; the step after it loads what is left."""
    params, optimizer = made(name, nonfinite="skip")
    train(params, optimizer, bad_at)
    with pytest.warns(HybridOptWarning, match="skipped"):
        backward(params, bad_at, [BAD])
        optimizer.step()
    others, other = made(name, nonfinite="skip")
    with torch.no_grad():
        for name, p in others.items():
            p.copy_(params[name])
    other.load_state_dict(optimizer.state_dict())
    for some, one in ((params, optimizer), (others, other)):
        train(some, one, 2, bad_at + 1)
    assert_same(snapshot(optimizer, params), snapshot(other, others))


def test_raise_comes_in_step_and_names_the_first(waits, reads):
    params, optimizer = made()
    train(params, optimizer, 1)
    before = snapshot(optimizer, params)
    backward(params, 1, ["layers.1.w", BAD])
    with pytest.raises(HybridOptError, match="layers.1.w.*at step 1; it is unchanged, but other.*step.. once more"):
        optimizer.step()
    now = snapshot(optimizer, params)
    for name in ("layers.1.w", BAD):
        assert_same((before[0][name], before[1][name]), (now[0][name], now[1][name]))
    assert not now[0]["norm.w"].equal(before[0]["norm.w"])
    with pytest.raises(HybridOptError, match="after its update in this step"):
        backward(params, 2)
    optimizer.zero_grad()
    optimizer.step()
    assert clock(optimizer) == [2] * len(optimizer.param_groups)
    train(params, optimizer, 1, 2)
    assert reads == [4, 4, 0, 4]


def test_raise_of_all_changes_nothing(waits):
    params, optimizer = made("columns")
    train(params, optimizer, 3)  # a new window begins with the next
    before = values(params)
    backward(params, 3, params)
    with pytest.raises(HybridOptError, match="not finite at step 3; nothing was changed"):
        optimizer.step()
    assert_same(before, values(params))
    assert clock(optimizer) == [3] * len(optimizer.param_groups)
    train(params, optimizer, 1, 3)
    assert clock(optimizer) == [4] * len(optimizer.param_groups)


def test_ignore_makes_no_flags(waits, reads):
    params, optimizer = made("signsgd", nonfinite="ignore")
    backward(params, 0, [BAD])
    optimizer.step()
    assert reads == [0] and optimizer.grad_norm.isnan().item()


@pytest.mark.parametrize("mode", ["tensor", "previous", "global"])
@pytest.mark.parametrize("name", ["adamw", "columns"])
def test_clipping_is_that_without_flags(name, mode, waits, monkeypatch):
    found = []
    for reading in (True, False):
        monkeypatch.setattr(fused, "reading_waits", lambda device, reading=reading: reading)
        params, optimizer = made(name, clip=2.0, clip_mode=mode)
        for step in range(3):
            if mode == "global":
                optimizer.measure(sum((p * gradient(n, p.shape, step).to(p.dtype)).sum() for n, p in params.items()))
            backward(params, step)
            optimizer.step()
        found.append((snapshot(optimizer, params), optimizer.grad_norm))
    assert_same(*found)


def test_a_norm_that_overflows_counts_as_not_finite(waits):
    params, optimizer = made("signsgd")
    before = values(params)
    backward(params, 0, params, 1e30)
    with pytest.raises(HybridOptError, match="nothing was changed"):
        optimizer.step()
    assert_same(before, values(params))


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("name", POLICIES)
def test_no_number_is_read_within_the_backward_pass(name, compile, waits, monkeypatch):
    """Not in a window's first step either: `update_gap` is 2 or 3."""
    params, optimizer = made(name, compile=compile)
    for step in range(4):
        with monkeypatch.context() as within:
            for method in READS:
                within.setattr(torch.Tensor, method, lambda *_, **__: pytest.fail("a number is read"))
            backward(params, step)
        optimizer.step()


@pytest.mark.parametrize("name", ["muon", "adamw", "adalomo"])
def test_a_false_flag_leaves_trained_codes(name, waits):
    params = {BAD: torch.nn.Parameter(Int8Weight.quantize(tensors(SHAPES)[BAD].detach()))}
    optimizer = optimize(params, release="fused", compile=False, nonfinite="skip", **POLICIES[name])

    def codes():
        return [x.clone() for x in params[BAD].parts().values()]

    for step, bad in enumerate([False, True, False]):
        before, p = codes(), params[BAD]
        p.grad = torch.full(p.shape, float("nan")) if bad else gradient(BAD, p.shape, step).float()
        with pytest.warns(HybridOptWarning, match="skipped") if bad else nullcontext():
            optimizer.gradient_ready(BAD, p)
            optimizer.step()
        assert bad == all(map(torch.equal, before, codes()))
