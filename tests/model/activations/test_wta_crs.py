"""Sampled rows: right on average, with less variance than plain sampling, exact where nothing is to be saved."""

from functools import cache, partial

import pytest
import torch

from hybridopt import HybridOptError, WtaCrs
from hybridopt.core.numerics.uniform import uniform

DRAWS = 600


def rows(count=24, width=6, spread=1.5, seed=0):
    """Rows whose norms differ by orders of magnitude, and gradients of the outputs."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=random) * torch.randn(count, 1, generator=random).mul(spread).exp()
    return x, torch.randn(count, 3, generator=random)


def draw(x, turn=0, key=1):
    return partial(uniform, key=key, turn=turn, device=x.device)


def products(scheme, x, gradient, count=DRAWS):
    return torch.stack([scheme.product(scheme.keep(x, draw(x, turn)), gradient) for turn in range(count)])


def plain_variance(x, gradient, count):
    """The variance of `count` independent draws by the same norms (column-row sampling), summed over all entries."""
    p = x.norm(dim=1) / x.norm(dim=1).sum()
    second = (gradient.norm(dim=1) ** 2 * x.norm(dim=1) ** 2 / p).sum()
    return (second - (gradient.t() @ x).norm() ** 2) / count


CASES = [(0.3, 0.0), (0.1, 1.5), (0.6, 1.5)]  # share, spread of norms


@cache
def many(share, spread):
    """Rows, gradients, and what many draws make of them."""
    x, gradient = rows(spread=spread)
    return x, gradient, products(WtaCrs(share), x, gradient)


@pytest.mark.parametrize("share, spread", CASES)
def test_the_mean_of_many_draws_is_the_gradient(share, spread):
    x, gradient, found = many(share, spread)
    error = found.std(0) / DRAWS**0.5
    assert ((found.mean(0) - gradient.t() @ x).abs() <= 4.5 * error + 1e-5 * x.norm()).all()
    assert found.std(0).max() > 0


@pytest.mark.parametrize("share, spread", CASES)
def test_the_variance_is_below_that_of_plain_sampling(share, spread):
    x, gradient, found = many(share, spread)
    assert found.var(0).sum() < 0.95 * plain_variance(x, gradient, round(share * len(x)))


def test_the_largest_rows_are_kept_for_certain():
    x, _ = rows()
    largest = set(x.norm(dim=1).topk(3).indices.tolist())
    assert all(largest <= set(WtaCrs(0.4).keep(x, draw(x, turn))[1].tolist()) for turn in range(50))


def test_rows_of_zeros_are_not_drawn():
    x, gradient = rows()
    x[5:] = 0
    found = products(WtaCrs(0.5), x, gradient, 5)  # 12 of 24 rows, of which 5 are left
    assert torch.allclose(found, (gradient.t() @ x).expand_as(found), rtol=1e-5, atol=1e-5)
    assert torch.equal(products(WtaCrs(0.5), x * 0, gradient, 2), torch.zeros(2, 3, 6))


def test_rows_of_very_different_norms_make_no_nan():
    x, gradient = rows(spread=20.0)
    assert products(WtaCrs(0.3), x, gradient, 20).isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(bad):
    x, gradient = rows()
    x[x.norm(dim=1).argmin(), 2] = bad
    assert products(WtaCrs(0.1), x, gradient, 3).isnan().any(2).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_rows_are_kept_in_their_own_dtype(dtype):
    x, gradient = (each.to(dtype) for each in rows(spread=0.5))
    kept, place = WtaCrs(0.25).keep(x, draw(x))
    assert (kept.shape, kept.dtype, place.dtype) == ((6, 6), dtype, torch.int32)
    assert WtaCrs(0.25).product((kept, place), gradient).dtype == dtype


def test_draws_depend_on_the_key_and_the_turn_alone():
    x, _ = rows(count=200)
    scheme = WtaCrs(0.2)
    one = scheme.keep(x, draw(x))
    assert all(torch.equal(a, b) for a, b in zip(one, scheme.keep(x, draw(x)), strict=True))
    others = [scheme.keep(x, draw(x, turn=1)), scheme.keep(x, draw(x, key=2))]
    assert not any(torch.equal(one[1], other[1]) for other in others)


def test_at_least_one_row_is_kept_and_all_of_few():
    x, gradient = rows(count=2)
    assert WtaCrs(0.01).keep(x, draw(x))[0].shape == (1, 6)
    assert WtaCrs(0.01).exact(1, 6, 3)
    assert not WtaCrs(0.3).exact(2, 6, 3)
    assert WtaCrs(1.0).exact(100, 6, 3)
    assert WtaCrs(0.3).exact(100, 6, 49), "as the second matrix of LoRA, whose input is small"


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan"), "0.3", True, None])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(HybridOptError, match="wta-crs: share="):
        WtaCrs(share)


def test_a_uniform_number_is_the_same_forever():
    found = uniform(10_000, key=7, turn=3, device=torch.device("cpu"))
    assert found[:2].tolist() == [0.4435643336165034, 0.682761263829265]
    assert 0 <= found.min() < 0.001 and 0.999 < found.max() < 1
    assert abs(found.mean() - 0.5) < 0.01
