"""Whitening against its restatement; sizes, zeros, and what its iterations do to small and large gradients."""

import numpy as np
import pytest
import torch

from hybridopt import HybridOptError
from hybridopt.core.registry import make
from hybridopt.parts.rules.whiten import Whiten
from support.reference.state_free import whiten
from support.rule_driver import directions, extremes


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("rows", ["rms", "standard", "none"])
@pytest.mark.parametrize("shape", [(14, 6), (5, 16), (10, 10), (1, 7)])
def test_as_restated(shape, rows):
    g = numbers(*shape)
    found = directions(Whiten(rows, 4), [g])[0][0]
    np.testing.assert_allclose(found, whiten(g.numpy(), rows, 4), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", [(60, 20), (20, 60), (40, 40), (1, 30), (30, 1)])
def test_the_root_mean_square_is_about_one(shape):
    for rule in (Whiten(), Whiten("standard"), Whiten("none")):
        assert 0.7 < directions(rule, [numbers(*shape)])[0][0].square().mean().sqrt() < 1.2


@pytest.mark.parametrize("rows", ["rms", "standard", "none"])
@pytest.mark.parametrize("name", extremes())
def test_no_gradient_is_too_small_or_too_large(name, rows):
    grads = extremes()[name]
    for given, out in zip(grads, directions(Whiten(rows), grads, dtype=torch.float32)[0], strict=True):
        assert out.isfinite().all() and out[(given == 0).all(-1)].eq(0).all()
        assert rows == "standard" or out[:, (given == 0).all(-2)].eq(0).all()
        assert torch.linalg.matrix_norm(out, 2) < 1.25 * max(out.shape) ** 0.5


def test_rows_of_one_entry_and_of_equal_entries_are_not_lost_to_their_mean():
    column = directions(Whiten("standard"), [numbers(8, 1)])[0][0]
    torch.testing.assert_close(column, directions(Whiten("rms"), [numbers(8, 1)])[0][0])
    assert directions(Whiten("standard"), [torch.ones(4, 5).double()])[0][0].isfinite().all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_iterations_in_fewer_bits(dtype):
    g = numbers(24, 16).float()
    exact, found = (directions(Whiten(dtype=d), [g], dtype=torch.float32)[0][0] for d in ("auto", dtype))
    assert found.dtype == torch.float32 and (found - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(
    "options",
    [{"rows": "l2"}, {"rows": None}, {"ns_steps": 0}, {"ns_steps": 101}, {"dtype": "float16"}, {"eps": 0}],
    ids=str,
)
def test_bad_options_are_named(options):
    with pytest.raises(HybridOptError, match=next(iter(options))):
        make("rules", "whiten", **options)
