"""AdaLomo against its restatement, the authors' package, and the cases in which squares fail."""

import numpy as np
import pytest
import torch
from lomo_optim import AdaLomo as TheirAdaLomo

from hybridopt import HybridOptError
from hybridopt.core.registry import make
from hybridopt.parts.rules.adalomo import AdaLomo
from support.reference.factored import AdaLomo as Restated
from support.rule_driver import directions, extremes, train
from support.training import gradient, tensors

SHAPES = {"tall": (14, 6), "wide": (5, 16), "vector": (9,), "row": (1, 7), "column": (7, 1), "one": (1,)}
STEPS, LR = 12, 0.05
GRADS = [{n: gradient(n, s, t) for n, s in SHAPES.items()} for t in range(STEPS)]


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("threshold", [1.0, 0.5])
def test_as_restated(name, threshold):
    params = {name: tensors(SHAPES, torch.float64)[name]}
    mine = train(AdaLomo(clip_threshold=threshold), params, GRADS, LR)[name]
    restated, weight = Restated(d=threshold), params[name].detach().numpy()
    for given in GRADS:
        weight = weight - LR * restated(given[name].numpy(), weight)
    np.testing.assert_allclose(mine, weight, 1e-12)


def test_as_the_authors_package(monkeypatch):
    """It keeps its state on CUDA and takes gradients in hooks, so both are patched and the loss is linear."""
    monkeypatch.setattr(torch.Tensor, "cuda", lambda x: x)
    model = torch.nn.ParameterDict({n: p for n, p in tensors(SHAPES).items()})
    mine = train(AdaLomo(), dict(model.items()), [{n: g.float() for n, g in given.items()} for given in GRADS], LR)
    theirs = TheirAdaLomo(model, lr=LR)
    for given in GRADS:
        theirs.fused_backward(sum((p * given[n].float()).sum() for n, p in model.items()), LR)
    for name, p in model.items():
        torch.testing.assert_close(mine[name], p.detach(), rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_a_row_has_the_second_moment_of_its_entries():
    """Unfactored: u is the sign at first, then g over the root of a mean of squares."""
    grads, param = numbers(2, 1, 8), numbers(1, 8, seed=1)
    found, _ = directions(AdaLomo(clip_threshold=1e9), grads, param)
    size = param.square().mean().sqrt()
    torch.testing.assert_close(found[0], grads[0].sign() * size)
    b = 1 - 2**-0.8
    v = b * grads[0].square() + (1 - b) * grads[1].square()
    torch.testing.assert_close(found[1], grads[1] / v.sqrt() * size)


def test_updates_are_no_larger_than_the_weights_say():
    """Gradients that grow would give long steps; RMS(direction) is at most RMS(param), and eps[1] for zeros."""
    grads = numbers(4, 8, 6) * torch.tensor([1.0, 10, 100, 1000])[:, None, None]
    for param in (numbers(8, 6, seed=1) * 3, torch.zeros(8, 6, dtype=torch.float64)):
        size = param.square().mean().sqrt().clamp(min=1e-3)
        for direction in directions(AdaLomo(), grads, param)[0]:
            assert direction.square().mean().sqrt() <= size * (1 + 1e-12)


def test_the_scale_of_the_gradient_does_not_matter():
    grads, param = numbers(3, 6, 5), numbers(6, 5, seed=1)
    wanted, _ = directions(AdaLomo(), grads, param)
    for scale in (1e-8, 1e6):
        torch.testing.assert_close(directions(AdaLomo(), grads * scale, param)[0], wanted)


@pytest.mark.parametrize("cuts", [(1,), (3,), (2, 5), tuple(range(1, 7))], ids=str)
def test_slices_give_the_result_of_the_whole(cuts):
    grads, param = numbers(4, 7, 5), numbers(7, 5, seed=1)
    whole, sliced = directions(AdaLomo(), grads, param), directions(AdaLomo(), grads, param, cuts)
    torch.testing.assert_close(sliced, whole, rtol=1e-13, atol=1e-15)


def test_experts_are_factored_each_for_itself():
    grads, params = numbers(3, 2, 4, 6, 5), numbers(2, 4, 6, 5, seed=1)
    together, state = directions(AdaLomo(), grads, params, (2,))
    assert {k: tuple(x.shape) for k, x in state.items()} == {"exp_avg_sq_row": (2, 4, 6), "exp_avg_sq_col": (2, 4, 5)}
    for i in range(2):
        for j in range(4):
            alone, _ = directions(AdaLomo(), grads[:, i, j], params[i, j])
            torch.testing.assert_close([x[i, j] for x in together], alone, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("eps", [(1e-30, 1e-3), (0, 0)], ids=str)
@pytest.mark.parametrize("case", extremes())
def test_extreme_gradients_stay_finite(case, eps):
    grads = extremes()[case]
    param = numbers(6, 5, seed=1).float()
    found, state = directions(AdaLomo(eps), grads, param, (2,), torch.float32)
    for grad, direction in zip(grads, found, strict=True):
        assert direction.isfinite().all()
        assert (direction[grad == 0] == 0).all()
        assert direction.square().mean().sqrt() <= param.square().mean().sqrt() * 1.0001
    assert all(x.isfinite().all() for x in state.values())


def test_huge_gradients_still_move_the_weights():
    """Squares of 1e25 overflow; the step is not lost."""
    param = numbers(6, 5, seed=1).float()
    direction = directions(AdaLomo(), extremes()["1e+25"], param, (), torch.float32)[0][0]
    assert direction.square().mean().sqrt() > 0.5 * param.square().mean().sqrt()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"eps": 1e-8}, "adalomo: eps=1e-08.*two numbers"),
        ({"eps": (1e-30, -1)}, r"eps\[1\]=-1"),
        ({"decay_rate": 0.8}, r"decay_rate=0.8.*\[-1, 0\]"),
        ({"decay_rate": -1.5}, "decay_rate=-1.5"),
        ({"clip_threshold": 0}, "clip_threshold=0.*above 0"),
        ({"clip_threshold": None}, "clip_threshold=None"),
        ({"beta1": 0.9}, "no option 'beta1'"),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(HybridOptError, match=text):
        make("rules", "adalomo", **options)
