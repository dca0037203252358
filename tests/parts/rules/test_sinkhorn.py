"""Sinkhorn against its restatement: what it does to sizes, what it looks at, what it leaves in memory."""

import numpy as np
import pytest
import torch

from hybridopt import HybridOptError
from hybridopt.core.registry import make
from hybridopt.execution import slices
from hybridopt.parts.rules.sinkhorn import Sinkhorn
from hybridopt.planning.trace.tracker import Tracker
from support.reference.state_free import sinkhorn
from support.rule_driver import directions, extremes
from support.training import give, optimize, tensors


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(14, 6), (5, 16), (300, 4), (1, 7), (7, 1)])
@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_as_restated(shape, rounds):
    g = numbers(*shape)
    found = directions(Sinkhorn(rounds), [g], cuts=(1, 4))[0][0]
    np.testing.assert_allclose(found, sinkhorn(g.numpy(), rounds), rtol=1e-11)


def test_rows_and_columns_have_size_one():
    out = directions(Sinkhorn(30), [numbers(12, 9)])[0][0]
    for dim in (0, 1):
        torch.testing.assert_close(out.square().mean(dim), torch.ones(out.shape[1 - dim]).double(), rtol=1e-6, atol=0)


def test_a_vector_gets_its_signs():
    g = numbers(1, 9)
    torch.testing.assert_close(directions(Sinkhorn(), [g])[0][0], g.sign())
    assert directions(Sinkhorn(), [torch.zeros(1, 1).double()])[0][0] == 0


@pytest.mark.parametrize("name", extremes())
def test_no_gradient_is_too_small_or_too_large(name):
    for given, out in zip(
        grads := extremes()[name], directions(Sinkhorn(), grads, dtype=torch.float32)[0], strict=True
    ):
        assert out.isfinite().all() and out[given == 0].eq(0).all()
        assert out.square().mean() < 1.001 and (out.sign() * given.sign() >= 0).all()
    if name in ("1e+10", "1e+18"):
        torch.testing.assert_close(out, directions(Sinkhorn(), extremes()["1e+10"] / 1e10)[0][-1].float())


def test_nothing_of_the_size_of_the_gradient_is_made(monkeypatch):
    monkeypatch.setattr(slices, "ELEMENTS", {"cpu": 1 << 10})
    params = tensors({"layers.0.w": (512, 64)})
    optimizer = optimize(params, free="sinkhorn", density=0.0)
    give(params, 0)
    p = params["layers.0.w"]
    with Tracker([p, p.grad]) as tracker:
        optimizer.step()
    assert 0 < tracker.peak < p.nbytes / 2


@pytest.mark.parametrize("rounds", [0, 1.5, True, 10**6, None], ids=str)
def test_bad_rounds_are_refused(rounds):
    with pytest.raises(HybridOptError, match=r"sinkhorn: rounds="):
        make("rules", "sinkhorn", rounds=rounds)
