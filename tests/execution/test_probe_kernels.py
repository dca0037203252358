"""Gradients of probes by kernels of accelerators: the bits of those that are made without."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hybridopt import HybridOptimizer, HybridOptWarning
from hybridopt.core.numerics import direction_kernels, directions
from hybridopt.core.numerics.directions import Direction
from hybridopt.execution import probe_gradient, probe_updates, slices
from hybridopt.execution.backends import _compiled_kernels as kernels
from hybridopt.execution.backends import compiled
from hybridopt.execution.cpp import builder
from hybridopt.execution.probe_gradient import ProbeGradient
from hybridopt.optimizer.releases import fused
from hybridopt.planning.trace.tracker import Tracker
from support.training import assert_same, gradient, snapshot

KEY = 0x1234_5678_9ABC_DEF0
SHAPES = {"embed_tokens.weight": (24, 32), "a.v": (7, 300), "a.b": (1100,), "a.one": (1,)}
WEIGHTS = st.sampled_from([0.0, 1e-45, 3e-39, 1e-3, -0.7, 1e30]) | st.floats(-10, 10)


@pytest.fixture
def functions(monkeypatch):
    """Let kernels be the functions that are compiled to them, and pieces be small."""
    monkeypatch.setattr(direction_kernels, "_compile", lambda function: function)
    monkeypatch.setattr(direction_kernels, "_kernels", {})
    monkeypatch.setattr(probe_gradient, "PIECES", {"cpu": 1100})


@pytest.fixture
def away(functions, monkeypatch):
    """Let the CPU be taken for an accelerator."""
    for module in (probe_updates, compiled, kernels):
        monkeypatch.setattr(module, "on_host", lambda device: False)
    monkeypatch.setattr(builder, "available", lambda: False)  # there are no C++ kernels on an accelerator
    monkeypatch.setattr(kernels, "_compile", lambda function, param: function)
    monkeypatch.setattr(kernels, "_kernels", {})
    monkeypatch.setattr(compiled, "AWAY", 1000)
    monkeypatch.setattr(directions, "SMALL", 0)  # no direction is prepared


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_kernels_make_the_bits_that_are_made_without(kind, dtype):
    @settings(max_examples=25, deadline=None)
    @example([0.0], 1, 600, True)  # -0 + 0 is 0
    @given(st.lists(WEIGHTS, max_size=3), st.integers(0, 700), st.integers(0, 2600), st.booleans())
    def same(weights, start, count, mixed):
        whole = torch.cat([gradient("g", (start + count,), 0), torch.tensor([-0.0])]).to(torch.bfloat16)
        whole[start::3] = -0.0
        terms = tuple((weight, Direction(KEY, 3, i, kind)) for i, weight in enumerate(weights))
        grads = [
            ProbeGradient(terms, (count,), whole.device, dtype, whole if mixed else None, 0.3, start, on).to(dtype)
            for on in (False, True)
        ]
        assert_same(*(x.view(torch.uint8) for x in grads))

    same()
    assert direction_kernels._kernels, "no kernel was called"


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_their_room_is_what_they_take(kind, dtype, monkeypatch):
    monkeypatch.setattr(direction_kernels, "_compile", lambda function: lambda *_: None)  # kernels take nothing
    monkeypatch.setattr(probe_gradient, "PIECES", {"cpu": 1 << 15})
    terms, count = ((0.5, Direction(KEY, 3, 0, kind)), (0.7, Direction(KEY, 3, 1, kind))), 1 << 17
    grad = ProbeGradient(terms, (count,), torch.device("cpu"), dtype, kernels=True)
    grad.to(dtype)  # what is made once
    with Tracker() as tracker:
        grad.to(dtype)
    assert 0 <= tracker.peak - grad.room(count) - count * dtype.itemsize <= 256  # numbers of directions


def mixing(compile, policy, dtype, **options):
    params = {n: torch.nn.Parameter(gradient(n, shape, -1).to(dtype)) for n, shape in SHAPES.items()}
    told = {"lr": 1e-2, "weight_decay": 0.1, "policy": policy, "compile": compile}
    return params, HybridOptimizer(params.items(), **told, **options)


def step(params, optimizer, number, bad=None):
    optimizer.probe(lambda: sum((p - 0.1).float().square().sum() for p in params.values()))
    for name, p in params.items():
        p.grad = gradient(name, p.shape, number).to(p.dtype)
        if name == bad:
            p.grad.view(-1)[0] = float("nan")
        if optimizer.release == "fused":
            optimizer.gradient_ready(name, p)


def trained(*told, **options):
    params, optimizer = mixing(*told, **options)
    for number in range(3):
        step(params, optimizer, number)
        optimizer.step()
    return snapshot(optimizer, params)


@pytest.mark.usefixtures("away")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("release", ["accumulate", "fused"])
@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_mixtures_are_updated_slice_by_slice_as_without_compiling(kind, release, dtype, monkeypatch):
    told = {"kind": kind, "alpha": 0.05, "eps": 1e-2, "release": release}
    eager = trained(False, "addax", dtype, **told)
    assert not (kernels._kernels or direction_kernels._kernels), "compile=False was not heeded"
    sizes, call = set(), kernels.call
    seen = lambda stage, parts, *rest: sizes.update(x.piece.param.numel() for x in parts) or call(stage, parts, *rest)  # noqa: E731
    monkeypatch.setattr(kernels, "call", seen)
    fast = trained(True, "addax", dtype, **told)
    assert kernels._kernels and direction_kernels._kernels and 7 * 300 not in sizes
    assert_same(eager, fast)


@pytest.mark.usefixtures("away")
@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("embeddings", ["free", "full"])
def test_flags_guard_mixtures(embeddings, compile, monkeypatch):
    """The same weights, state and clocks as where every gradient is looked at at once."""
    monkeypatch.setattr(slices, "ELEMENTS", {"cpu": 400})
    found = []
    for waits in (False, True):
        monkeypatch.setattr(fused, "reading_waits", lambda device, waits=waits: waits)
        told = {"release": "fused", "nonfinite": "skip", "embeddings": embeddings, "eps": 1e-2}
        params, optimizer = mixing(compile, "addax", torch.bfloat16, **told)
        for number, bad in enumerate((None, "embed_tokens.weight", None)):
            before = params["embed_tokens.weight"].detach().clone()
            with pytest.warns(HybridOptWarning, match="skipped") if bad else nullcontext():
                with monkeypatch.context() as here:
                    if waits and compile:
                        here.setattr(torch.Tensor, "__bool__", lambda x: pytest.fail("a flag is read midway"))
                    step(params, optimizer, number, bad)
                optimizer.step()
            assert params["embed_tokens.weight"].equal(before) == bool(bad)
        found.append(snapshot(optimizer, params))
    assert_same(*found)
