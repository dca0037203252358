"""CAME against its restatement and the authors' package; how long its first steps are, and the option that helps."""

import numpy as np
import pytest
import torch
from came_pytorch import CAME as TheirCAME

from hybridopt import HybridOptError
from hybridopt.core.registry import make
from hybridopt.parts.rules.came import CAME
from support.reference.factored import Came as Restated
from support.rule_driver import directions, extremes, train
from support.training import gradient, tensors, twin

SHAPES = {"tall": (14, 6), "wide": (5, 16), "vector": (9,), "column": (7, 1)}
STEPS, LR = 12, 0.01
GRADS = [{n: gradient(n, s, t) for n, s in SHAPES.items()} for t in range(STEPS)]
SETTINGS = {
    "paper": {"bias_correction": False},
    "short memory": {"betas": (0.8, 0.95, 0.99), "clip_threshold": 0.5, "bias_correction": False},
    "defaults": {},
}


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", SHAPES)
def test_as_restated(name, options):
    params = {name: tensors(SHAPES, torch.float64)[name]}
    mine = train(CAME(**options), params, GRADS, LR)[name]
    names = {"clip_threshold": "d", "bias_correction": "correct"}
    restated = Restated(**{names.get(k, k): v for k, v in ({"bias_correction": True} | options).items()})
    weight = params[name].detach().numpy()
    for given in GRADS:
        weight = weight - LR * restated(given[name].numpy())
    np.testing.assert_allclose(mine, weight, 1e-10)


@pytest.mark.parametrize("options", [SETTINGS["paper"], SETTINGS["short memory"]], ids=["paper", "short memory"])
def test_as_the_authors_package(options):
    params = tensors(SHAPES)
    theirs = twin(params)
    grads = [{n: g.float() for n, g in given.items()} for given in GRADS]
    mine, reference = (
        train(CAME(**options), params, grads, LR),
        TheirCAME(theirs.values(), lr=LR, **{k: v for k, v in options.items() if k != "bias_correction"}),
    )
    for given in grads:
        for name, p in theirs.items():
            p.grad = given[name].clone()
        reference.step()
    for name, p in theirs.items():
        torch.testing.assert_close(mine[name], p.detach(), rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    ("correct", "first"), [(False, 0.1 / (0.9 * 0.01)), (True, 1 / 0.9)], ids=["paper", "corrected"]
)
def test_the_first_step(correct, first):
    """m = 0.1 u over sqrt(1e-4 (0.9 u)^2): 11.1 lr; corrected u over 0.9 u. Gradients of rank 1, factored exactly."""
    grad = numbers(1, 8, 1) * numbers(1, 1, 6, seed=1)
    direction = directions(CAME(bias_correction=correct), grad)[0][0]
    torch.testing.assert_close(direction.abs(), torch.full_like(direction, first))


def test_both_end_at_the_same_size():
    """Once 1 / (1 - beta3) steps are over; here beta3 is 0.9."""
    grads = numbers(120, 8, 6)
    sizes = {}
    for correct in (False, True):
        found, _ = directions(CAME((0.9, 0.9, 0.9), bias_correction=correct), grads)
        sizes[correct] = [x.square().mean().sqrt() for x in found]
    assert sizes[False][0] > 0.3 and sizes[False][-1] == pytest.approx(float(sizes[True][-1]), rel=1e-4)
    assert max(sizes[True]) < 1.5


def test_a_stack_is_updated_as_its_members():
    grads = numbers(3, 2, 6, 5)
    together, state = directions(CAME(), grads)
    assert {k: tuple(x.shape) for k, x in state.items()} == {
        "exp_avg": (2, 6, 5),
        "exp_avg_sq_row": (2, 6),
        "exp_avg_sq_col": (2, 5),
        "exp_avg_res_row": (2, 6),
        "exp_avg_res_col": (2, 5),
    }
    for i in range(2):
        alone, _ = directions(CAME(), grads[:, i])
        torch.testing.assert_close([x[i] for x in together], alone, rtol=1e-13, atol=1e-15)


def test_vectors_have_no_confidence():
    assert set(CAME().slots((1, 9))) == {"exp_avg", "exp_avg_sq_row", "exp_avg_sq_col"}


def test_only_the_momentum_may_be_compressed():
    assert {k for k, slot in CAME().slots((4, 5)).items() if not slot.exact} == {"exp_avg"}


@pytest.mark.parametrize("correct", [False, True])
@pytest.mark.parametrize("case", extremes())
def test_extreme_gradients_stay_finite(case, correct):
    """Nothing overflows, and what has had no gradient yet stands still."""
    grads = extremes()[case]
    found, state = directions(CAME(bias_correction=correct), grads, None, (), torch.float32)
    assert all(x.isfinite().all() for x in [*found, *state.values()])
    for t, direction in enumerate(found):
        untouched = (grads[: t + 1] == 0).all(0)
        assert (direction[untouched] == 0).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"betas": (0.9, 0.999)}, r"came: betas=\(0.9, 0.999\).*three numbers"),
        ({"betas": (0.9, 0.999, 1.0)}, r"betas\[2\]=1.0.*\[0, 1\)"),
        ({"betas": (0, 0.999, 0.9999)}, r"betas\[0\]=0.*adafactor"),
        ({"eps": (1e-30, "x")}, r"came: eps\[1\]='x'"),
        ({"bias_correction": "yes"}, "bias_correction='yes'.*True or False"),
        ({"clip_threshold": 0}, "came: clip_threshold=0"),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(HybridOptError, match=text):
        make("rules", "came", **options)


def test_lists_are_as_good_as_tuples():
    assert CAME(betas=[0.9, 0.99, 0.999], eps=[1e-30, 1e-16]) == CAME((0.9, 0.99, 0.999))
