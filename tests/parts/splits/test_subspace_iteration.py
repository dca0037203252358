"""Leading directions by subspace iteration: nearly the energy of the SVD, orthonormal whatever the gradient is."""

import pytest
import torch

from hybridopt.core.contracts import Draw
from hybridopt.parts.splits import _iteration
from hybridopt.parts.splits.random import Random
from hybridopt.parts.splits.svd import Svd

SHAPES = [(48, 32), (32, 48), (40, 40), (2, 24, 20), (1, 9), (9, 1)]


def gradient(shape, power=1.0, seed=0, dtype=torch.float32):
    """A matrix whose singular values are 1 / k^power, or a stack of them."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    return (u * torch.arange(1, s.shape[-1] + 1).double().pow(-power) @ vh).to(dtype)


class Searched:
    """A basis, sampled window after window."""

    def __init__(self, shape, density=0.25, **options):
        self.part = Svd(density, 1, **options).at(Draw(0, "w"), shape)
        slots = self.part.slots(shape).items()
        self.basis, self.window = {k: torch.zeros(slot.shape, dtype=slot.dtype) for k, slot in slots}, 0

    def __call__(self, grad):
        self.part.sample(grad, self.basis, Draw(0, "w", self.window, fresh=not self.window))
        self.window += 1
        return self.basis["basis"]

    def energy(self, grad):
        """Of the gradient in the subspace, as a share of the most that any of this rank has."""
        most = torch.linalg.svdvals(grad)[..., : self.part.rank].square()
        return (self.part.down(grad, self.basis).square().sum() / most.sum()).item()


def assert_orthonormal(q):
    eye = torch.eye(q.shape[-1]).expand(*q.shape[:-2], -1, -1)
    torch.testing.assert_close(q.mT @ q, eye, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["std", "reverse_std", "left", "right"])
@pytest.mark.parametrize("shape", SHAPES)
def test_nearly_all_that_the_svd_finds_from_noise_and_from_the_last_basis(shape, side):
    search = Searched(shape, side=side)
    for seed in range(3):
        grad = gradient(shape, seed=seed // 2)  # the last one is another one
        assert_orthonormal(search(grad))
        assert search.energy(grad) > (0.95 if seed == 2 else 0.999)


@pytest.mark.parametrize("power", [1.0, 0.7])
def test_wide_bases_come_of_noise_without_a_decomposition(power, monkeypatch):
    """So the first step of a large model does not wait matrix by matrix; a decomposition reads from the device."""
    monkeypatch.setattr(torch.linalg, "eigh", None)
    grad, search = gradient((264, 256), power), Searched((264, 256))
    assert search.part.rank == _iteration.WIDE
    assert_orthonormal(search(grad))
    assert 0.99 < search.energy(grad) < 1


@pytest.mark.parametrize("shape", [(80, 72), (72, 80), (2, 70, 70)], ids=str)
@pytest.mark.parametrize("side", ["left", "right"])
def test_wide_bases_are_orthonormal_whatever_the_gradient_is(shape, side):
    """A gradient of zeros, of one direction, tiny, huge, in bfloat16, or broken in one matrix of a stack."""
    full = gradient(shape)
    broken = full.clone().view(-1)
    broken[3] = float("nan")
    line = full[..., :1] @ full[..., :1, :]
    for grad in (0 * full, line, full * 1e-30, full * 1e30, full.bfloat16(), broken.view(shape)):
        search = Searched(shape, 0.95, side=side)
        assert search.part.rank >= _iteration.WIDE
        assert_orthonormal(search(grad))
        assert_orthonormal(search(grad))
        if grad is line:
            torch.testing.assert_close(search.part.rest(line, search.basis), 0 * line, rtol=0, atol=1e-5)


def test_a_flat_spectrum_loses_little():
    grad = gradient((96, 64), 0.5)
    search = Searched((96, 64))
    search(grad)
    assert 0.99 < search.energy(grad) < 1


@pytest.mark.parametrize("density", [0.25, 0.99])
@pytest.mark.parametrize("side", ["std", "reverse_std"])
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_gradients_of_low_rank_give_orthonormal_directions_that_hold_them(rank, side, density):
    grad = torch.zeros(24, 16)
    for i in range(rank):
        grad += gradient((24, 16), seed=i)[:, :1] @ gradient((24, 16), seed=i + 9)[:1]
    search = Searched((24, 16), density, side=side)
    for _ in range(3):
        assert_orthonormal(search(grad))
    torch.testing.assert_close(search.part.rest(grad, search.basis), torch.zeros(24, 16), rtol=0, atol=1e-5)


def test_directions_that_are_new_are_found():
    """A basis of which the new gradient has nothing at all: other columns, all alone."""
    old, new = torch.zeros(40, 32), torch.zeros(40, 32)
    old[:, :8], new[:, 20:28] = gradient((40, 8)), gradient((40, 8), seed=1)
    search = Searched((40, 32))
    search(old)
    assert search.energy(new) < 1e-6
    search(new)
    search(new)
    assert search.energy(new) > 0.99


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e30])
def test_the_size_of_a_gradient_does_not_matter(size):
    grad, search = gradient((40, 32)), Searched((40, 32))
    search(grad * size)
    assert search.energy(grad) > 0.999


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_leaves_an_orthonormal_basis(value):
    grad, search = gradient((40, 32)), Searched((40, 32))
    for broken in (True, False, True):
        bad = grad.clone()
        bad[3, 4] = value if broken else 0
        assert_orthonormal(search(bad))
    search(grad)
    assert search.energy(grad) > 0.99


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_gradients_are_worked_on_in_full_precision_and_in_pieces(dtype, monkeypatch):
    grad = gradient((40, 32), dtype=dtype)
    whole, pieces = Searched((40, 32)), Searched((40, 32))
    whole(grad)
    monkeypatch.setattr(_iteration, "PIECE", 200)
    pieces(grad)
    assert whole.basis["basis"].dtype == torch.float32
    assert whole.energy(grad.float()) > 0.999 and pieces.energy(grad.float()) > 0.999


def test_the_directions_go_on_from_the_last_ones():
    """So that moments in their coordinates keep their meaning; those of an SVD change their signs."""
    search, grad = Searched((48, 32)), gradient((48, 32))
    before = search(grad).clone()
    after = search(grad + 0.01 * gradient((48, 32), 0, seed=5))
    cosines = (before * after).sum(-2)
    assert cosines[:4].min() > 0.9


@pytest.mark.parametrize("wide", [((48, 32), {}), ((80, 72), {"density": 0.9})], ids=["few", "wide"])
def test_the_leading_direction_comes_first_where_it_is_asked_for(wide):
    shape, options = wide
    search, grad = Searched(shape, **options, threshold=0.4), gradient(shape)
    search(grad)
    lead = torch.linalg.svd(grad).Vh[0]
    assert (search.part.first(grad, search.basis) @ lead).abs() > 0.9999


def test_names_seeds_and_windows_begin_with_other_noise():
    like, keys = torch.empty(300, 2000), [1, 2]
    one, other = (_iteration.noise(like, key) for key in keys)
    assert one.equal(_iteration.noise(like, 1)) and not one.equal(other)
    flat = one.view(-1)
    assert abs(flat.mean()) < 0.01 and abs(flat.std() - 1) < 0.01
    assert not flat[: _iteration.DRAWN].equal(flat[_iteration.DRAWN : 2 * _iteration.DRAWN])
    part = Random(0.5, 1).at(Draw(0, "w"), (6, 4))
    drawn = []
    for draw in (Draw(0, "w"), Draw(1, "w"), Draw(0, "v"), Draw(0, "w", 1)):
        basis = {"basis": torch.zeros(4, 2)}
        part.sample(torch.empty(6, 4), basis, draw)
        drawn.append(basis["basis"])
    assert all(not drawn[0].allclose(x) for x in drawn[1:])
