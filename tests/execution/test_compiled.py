"""Compiled updates compute what eager ones do, with one kernel for every shape and every number."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hybridopt import HybridOptError, HybridOptimizer, HybridOptWarning
from hybridopt.execution.backends import _compiled_kernels as kernels
from hybridopt.execution.backends import compiled
from hybridopt.execution.cpp import builder

SHAPES = [(16, 16), (16, 24), (300, 8)]  # the first has two equal sizes, which no kernel may take to be one


@pytest.fixture(autouse=True)
def small_is_large_enough(monkeypatch):
    monkeypatch.setattr(builder, "available", lambda: False)  # or all of it would be printed in C++
    monkeypatch.setattr(compiled, "SMALLEST", 64)
    monkeypatch.setattr(compiled, "PIECE", 200)
    monkeypatch.setattr(compiled, "CREW", 2)
    monkeypatch.setattr("hybridopt.execution.backends.banks.Banks.largest_stacked", 0)


def trained(policy, compile, dtype=torch.float32, shapes=SHAPES, steps=3, lr=1e-2, **options):
    """Weights after a few steps with a falling learning rate, and their optimizer."""
    random = torch.Generator().manual_seed(0)
    params = {
        f"layers.{i}.mlp.weight": torch.nn.Parameter(torch.randn(shape, generator=random).to(dtype))
        for i, shape in enumerate(shapes)
    }
    optimizer = HybridOptimizer(params.items(), lr=lr, policy=policy, compile=compile, weight_decay=0.1, **options)
    for _ in range(steps):
        for p in params.values():
            p.grad = torch.randn(p.shape, generator=random).to(dtype)
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
    return {name: p.detach().float() for name, p in params.items()}, optimizer


@pytest.mark.parametrize(
    ("policy", "dtype", "options"),
    [
        ("frugal", torch.float32, {"density": 0.25, "update_gap": 2}),
        ("frugal", torch.bfloat16, {"density": 0.0}),
        ("adalomo", torch.float32, {}),
        ("adamw", torch.float32, {"codec": "int8"}),
    ],
)
def test_compiled_is_eager_but_for_rounding(policy, dtype, options):
    before = len(kernels._kernels)
    fast, optimizer = trained(policy, True, dtype, **options)
    made = len(kernels._kernels) - before
    assert 0 < made <= 8 and not kernels._broken
    slow, plain = trained(policy, False, dtype, **options)
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name], rtol=1e-5, atol=1e-5 if dtype == torch.float32 else 1e-2)
        assert (fast[name] == slow[name]).float().mean() > 0.5
    states = zip(optimizer.state.values(), plain.state.values(), strict=True)
    assert all(one.keys() == other.keys() for one, other in states)
    trained(policy, True, dtype, shapes=[(24, 16), (8, 8), (32, 40), (48, 16)], steps=1, lr=3e-3, **options)
    assert len(kernels._kernels) - before == made, "other shapes or learning rates needed other kernels"


def test_a_compiled_step_moves_version_counters():
    p = torch.nn.Parameter(torch.ones(16, 16))
    optimizer = HybridOptimizer([("w", p)], lr=0.1, policy="signsgd", compile=True)
    p.grad, before = torch.ones(16, 16), p._version
    optimizer.step()
    assert p._version > before and torch.equal(p, torch.full((16, 16), 0.9))


def test_without_a_compiler_steps_are_eager_and_say_so_once(monkeypatch):
    def fail(*_):
        raise OSError("no compiler here")

    monkeypatch.setattr(kernels, "_compile", fail)
    monkeypatch.setattr(kernels, "_broken", set())
    with pytest.warns(HybridOptWarning, match="no compiler here") as said:
        fast, _ = trained("lion", True)
    assert len(said) == 1
    slow, _ = trained("lion", False)
    assert all(fast[name].equal(slow[name]) for name in slow)


def test_a_kernel_that_fails_half_way_through_an_update_changes_nothing_twice(monkeypatch):
    """The state-full part has moved already when the second of three kernels cannot be compiled."""
    compile_ = kernels._compile
    made = []

    def fail_second(function, device):
        made.append(function)
        if len(made) == 2:
            raise OSError("out of disk")
        return compile_(function, device)

    monkeypatch.setattr(kernels, "_compile", fail_second)
    monkeypatch.setattr(kernels, "_kernels", {})
    monkeypatch.setattr(kernels, "_broken", set())
    with pytest.warns(HybridOptWarning, match="out of disk"):
        fast, _ = trained("frugal", True, density=0.25, steps=2)
    slow, _ = trained("frugal", False, density=0.25, steps=2)
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["frugal", "adalomo"])
def test_under_a_mode_that_sees_every_operation_steps_are_eager(policy):
    """As flop counters and memory trackers are, under which torch.compile raises."""
    with FlopCounterMode(display=False):
        watched, _ = trained(policy, True)
    plain, _ = trained(policy, False)
    assert all(torch.equal(watched[name], plain[name]) for name in plain)


@pytest.mark.parametrize("wrong", ["yes", 1, None])
def test_compile_takes_three_values(wrong):
    with pytest.raises(HybridOptError, match="compile=.*give True, False or 'auto'"):
        HybridOptimizer([torch.nn.Parameter(torch.ones(2))], compile=wrong)


def test_small_models_are_not_compiled_unless_asked(monkeypatch):
    monkeypatch.setattr(compiled.Compiled, "run", lambda _, tasks: [pytest.fail("compiled") for _ in tasks])
    trained("signsgd", "auto")


def test_parameters_with_other_raw_state_are_no_crew():
    """Small state stays exact: two parameters of one treatment need not keep the same tensors."""
    options = {"policy": "adamw", "codec": {"part": "codecs.int8", "exact_below": 600}}
    shapes = [(32, 16), (64, 16)] * 2
    fast, _ = trained(compile=True, shapes=shapes, **options)
    slow, _ = trained(compile=False, shapes=shapes, **options)
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name], rtol=1e-5, atol=1e-5)
