"""Adafactor against its restatement, transformers, torch, and AdaLomo, which it contains."""

import numpy as np
import pytest
import torch
from transformers.optimization import Adafactor as TransformersAdafactor

from hybridopt import HybridOptError
from hybridopt.core.registry import make
from hybridopt.parts.rules.adafactor import Adafactor
from hybridopt.parts.rules.adalomo import AdaLomo
from support.reference.factored import Adafactor as Restated
from support.rule_driver import directions, extremes, train
from support.training import gradient, tensors, twin

SHAPES = {"tall": (14, 6), "wide": (5, 16), "vector": (9,), "row": (1, 7), "column": (7, 1), "stack": (2, 4, 6)}
STEPS, LR = 12, 0.05
GRADS = [{n: gradient(n, s, t) for n, s in SHAPES.items()} for t in range(STEPS)]
SETTINGS = {
    "defaults": {},
    "momentum": {"beta1": 0.9},
    "unscaled": {"scale_parameter": False},
    "relative": {"relative_step": True},
    "everything": {"beta1": 0.5, "relative_step": True, "clip_threshold": 0.5, "decay_rate": -0.5},
}


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def floats(dtype=torch.float32):
    return [{n: g.to(dtype) for n, g in given.items()} for given in GRADS]


def theirs(optimizer, params):
    """The weights after the same gradients by a torch optimizer."""
    for given in floats():
        for name, p in params.items():
            p.grad = given[name].clone()
        optimizer.step()
    return {name: p.detach() for name, p in params.items()}


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", [n for n in SHAPES if n != "stack"])
def test_as_restated(name, options):
    params = {name: tensors(SHAPES, torch.float64)[name]}
    mine = train(Adafactor(**options), params, GRADS, LR)[name]
    names = {"scale_parameter": "scale", "relative_step": "relative", "clip_threshold": "d", "decay_rate": "decay"}
    restated = Restated(**{names.get(k, k): v for k, v in options.items()})
    weight = params[name].detach().numpy()
    for given in GRADS:
        weight = weight - LR * restated(given[name].numpy(), weight)
    np.testing.assert_allclose(mine, weight, 1e-11)


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_as_transformers(options):
    """It knows relative steps at lr=1 only; its stacks are scaled and clipped as one tensor, ours each for itself."""
    params = {n: p for n, p in tensors(SHAPES).items() if n != "stack"}
    relative = options.get("relative_step", False)
    copies = twin(params)
    reference = TransformersAdafactor(
        copies.values(), **{"relative_step": False, "lr": None if relative else LR, "warmup_init": False} | options
    )
    mine = train(Adafactor(**options), params, floats(), 1.0 if relative else LR)
    for name, weight in theirs(reference, copies).items():
        torch.testing.assert_close(mine[name], weight, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_as_torch():
    """With eps that fits float32; 1 / sqrt(step) bounds its lr, which is far above the lr here."""
    params = {n: p for n, p in tensors(SHAPES).items() if n != "stack"}
    copies = twin(params)
    reference = torch.optim.Adafactor(copies.values(), lr=LR, eps=(1e-15, 1e-3))
    mine = train(Adafactor(), params, floats(), LR)
    for name, weight in theirs(reference, copies).items():
        torch.testing.assert_close(mine[name], weight, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_adalomo_is_adafactor_without_momentum():
    grads, param = numbers(4, 6, 5), numbers(6, 5, seed=1)
    torch.testing.assert_close(directions(Adafactor(), grads, param), directions(AdaLomo(), grads, param))


def test_relative_steps_by_step():
    rule = Adafactor(relative_step=True)
    assert [rule.numbers(t)["rate"] for t in (1, 10_000, 40_000)] == [1e-2, 1e-2, 5e-3]
    assert [Adafactor().numbers(t)["rate"] for t in (1, 40_000)] == [1.0, 1.0]


def test_state_and_what_it_reads():
    assert {k: s.shape for k, s in Adafactor().slots((3, 4, 5)).items()} == {
        "exp_avg_sq_row": (3, 4),
        "exp_avg_sq_col": (3, 5),
    }
    assert Adafactor(beta1=0.9).slots((4, 5))["exp_avg"].shape == (4, 5)
    assert Adafactor().reads_param and not Adafactor(scale_parameter=False).reads_param
    assert all(s.exact and not s.signed for s in Adafactor().slots((4, 5)).values())


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_slices_give_the_result_of_the_whole(options):
    rule, grads, param = Adafactor(**options), numbers(4, 2, 7, 5), numbers(2, 7, 5, seed=1)
    whole = directions(rule, grads, param)
    for cuts in [(1,), (2, 5), tuple(range(1, 7))]:
        torch.testing.assert_close(directions(rule, grads, param, cuts), whole, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("case", extremes())
def test_extreme_gradients_stay_finite(case):
    grads, rule = extremes()[case], Adafactor(beta1=0.9, scale_parameter=False)
    found, state = directions(rule, grads, None, (2,), torch.float32)
    assert all(x.isfinite().all() for x in [*found, *state.values()])
    assert all(x.square().mean().sqrt() <= 1.0001 for x in found)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"beta1": 1.0}, r"adafactor: beta1=1.0.*\[0, 1\)"),
        ({"beta1": "0.9"}, "beta1='0.9'"),
        ({"relative_step": 1}, "relative_step=1.*True or False"),
        ({"scale_parameter": None}, "scale_parameter=None"),
        ({"eps": (1e-30,)}, r"adafactor: eps=\(1e-30,\)"),
        ({"clip_threshold": -1}, "adafactor: clip_threshold=-1"),
        ({"betas": (0.9, 0.999)}, "no option 'betas'.*beta1"),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(HybridOptError, match=text):
        make("rules", "adafactor", **options)
