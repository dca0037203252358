"""Weights kept as 8-bit codes in kernels: the bits of the eager update, and a graph without breaks."""

import pytest
import torch

from hybridopt import HybridOptimizer
from hybridopt.execution.backends import _compiled_kernels as kernels
from hybridopt.execution.backends import compiled
from hybridopt.parts.stores._int8_weight import Int8Weight
from support.training import assert_same, gradient

SHAPES = {"a.mlp.up.weight": (24, 32), "a.mlp.down.weight": (7, 300)}
POLICIES = {
    "adamw": {"policy": "adamw", "weight_decay": 0.1},
    "signsgd": {"policy": "signsgd"},
    "columns": {"policy": "frugal", "density": 0.25, "update_gap": 2},
    "rows": {"policy": "frugal", "density": 0.25, "split": "rows"},
    "adamw, int8": {"policy": "adamw", "codec": {"part": "codecs.int8", "exact_below": 0}},
    "adalomo": {"policy": "adalomo"},
    "block": {"policy": "frugal", "split": "block", "update_gap": 2},
}


@pytest.fixture
def away(monkeypatch):
    """Let codes be compiled on a CPU as on accelerators."""
    monkeypatch.setattr(compiled, "on_host", lambda device: False)
    monkeypatch.setattr(kernels, "_kernels", {})
    monkeypatch.setattr(kernels, "_compile", lambda function, param: function)


def trained(compile, steps=3, shapes=SHAPES, **options):
    params = {
        name: torch.nn.Parameter(Int8Weight.quantize((gradient(name, shape, -1) * 0.02).bfloat16()))
        for name, shape in shapes.items()
    }
    optimizer = HybridOptimizer(params.items(), lr=1e-2, compile=compile, **options)
    for step in range(steps):
        for name, p in params.items():
            p.grad = gradient(name, p.shape, step).bfloat16()
        optimizer.step()
    parts = {name: p.detach().parts() for name, p in params.items()}
    return parts, [dict(optimizer.state[p]) for p in params.values()], params


@pytest.mark.parametrize("name", POLICIES)
def test_kernels_give_the_bits_of_the_eager_update(name, away):
    eager = trained(False, **POLICIES[name])
    assert not kernels._kernels
    fast = trained(True, **POLICIES[name])
    assert kernels._kernels
    assert_same(eager[:2], fast[:2])


@pytest.mark.parametrize("name", POLICIES)
def test_slices_give_the_bits_of_the_whole(name, away, monkeypatch):
    """Each is told its first row and the keys of the whole, as on accelerators."""
    eager = trained(False, **POLICIES[name])
    monkeypatch.setattr(kernels, "on_host", lambda device: False)
    monkeypatch.setattr(compiled, "AWAY", 300)
    calls = []
    call = kernels.call
    monkeypatch.setattr(kernels, "call", lambda *given: calls.append(given[1]) or call(*given))
    fast = trained(True, **POLICIES[name])
    assert_same(eager[:2], fast[:2])
    rows = {part.piece.row for parts in calls for part in parts}
    assert len(rows) > 1 or name in ("adalomo", "rows")  # which need whole matrices


@pytest.mark.parametrize("name", ["signsgd", "adamw", "columns"])
def test_their_graphs_have_no_break(name, away, monkeypatch):
    whole = {"fullgraph": True, "dynamic": False, "backend": "eager"}
    monkeypatch.setattr(kernels, "_compile", lambda function, param: torch.compile(function, **whole))
    shapes = {"a.mlp.up.weight": (24, 32)}
    traced, plain = (trained(on, 1, shapes, **POLICIES[name])[2]["a.mlp.up.weight"].detach() for on in (True, False))
    off = traced.dequantize(torch.float32) - plain.dequantize(torch.float32)
    assert off.abs().max() <= (0 if name == "signsgd" else plain.scale.max())  # a code, where roots are rounded apart


def test_a_flag_guards_codes(away, monkeypatch):
    monkeypatch.setattr("hybridopt.optimizer.releases.fused.reading_waits", lambda device: True)
    name, shape = "a.mlp.up.weight", (24, 32)
    p = torch.nn.Parameter(Int8Weight.quantize(gradient(name, shape, -1).bfloat16()))
    optimizer = HybridOptimizer([(name, p)], lr=1e-2, policy="adamw", compile=True, release="fused", nonfinite="skip")
    for step, bad in enumerate([False, True]):
        before = {k: x.clone() for k, x in p.detach().parts().items()}
        grad = gradient(name, shape, step).bfloat16()
        grad[0, 0] = float("nan") if bad else 1.0
        p.grad = grad
        optimizer.gradient_ready(name, p)
        if bad:
            with pytest.warns(UserWarning, match="skipped"):
                optimizer.step()
        else:
            optimizer.step()
        assert p.detach().codes.equal(before["codes"]) == bad
    assert_same(before, p.detach().parts())


def test_versions_of_codes_move(away):
    _, _, params = trained(True, 1, **POLICIES["signsgd"])
    assert all(p._version for p in params.values())
