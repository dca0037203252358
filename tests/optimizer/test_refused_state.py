"""Saved state that does not fit is refused, by name, with nothing changed."""

import copy

import pytest
import torch

from hybridopt import HybridOptError
from support.training import advance, assert_same, optimize, snapshot, tensors

SHAPES = {"layers.0.w": (12, 8), "layers.0.b": (12,), "layers.1.w": (6, 20), "layers.2.w": (4, 4), "norm.w": (6,)}


CHANGED = {
    "other names": (dict(SHAPES, extra=(3, 3)), {}, "extra"),
    "a name less": ({k: v for k, v in SHAPES.items() if k != "layers.2.w"}, {}, "layers.2.w"),
    "renamed": ({k.replace("layers.2", "layers.3"): v for k, v in SHAPES.items()}, {}, "layers.[23].w"),
    "other shape": (SHAPES | {"layers.1.w": (20, 6)}, {}, r"layers.1.w.*\(6, 10\).*\(20, 3\)"),
    "other density": (SHAPES, {"density": 0.25}, "layers.0.w.*0.25"),
    "other gap": (SHAPES, {"update_gap": 4}, "update_gap"),
    "other rule": (SHAPES, {"full": "lion"}, "lion"),
    "other codec": (SHAPES, {"codec": "bf16"}, "bf16"),
    "other policy": (SHAPES, {"policy": "adamw"}, "layers.0.*policy it was saved with"),
    "other tag": (SHAPES, {"norms": "free"}, "norm.w"),
    "no state-full part": (SHAPES, {"policy": "signsgd"}, "layers.0.*policy it was saved with"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_state_that_does_not_fit_is_refused(name):
    shapes, options, words = CHANGED[name]
    params, others = tensors(SHAPES), tensors(shapes)
    optimizer, other = optimize(params), optimize(others, **options)
    advance(optimizer, params, 4)
    advance(other, others, 2)
    before = snapshot(other, others)
    with pytest.raises(HybridOptError, match=words):
        other.load_state_dict(optimizer.state_dict())
    assert_same(before, snapshot(other, others))
    advance(other, others, 2, 2)


def test_a_state_in_another_dtype_is_refused():
    params, others = tensors(SHAPES), tensors(SHAPES, torch.float64)
    optimizer, other = optimize(params), optimize(others)
    advance(optimizer, params, 4)
    with pytest.raises(HybridOptError, match="layers.0.*float32.*float64"):
        other.load_state_dict(optimizer.state_dict())
    assert not other.state


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: s["state"][0].pop("exp_avg"), "exp_avg"),
        (lambda s: s["state"][0].update(more=torch.ones(2)), "more"),
        (lambda s: s["state"][0].update(exp_avg=s["state"][0]["exp_avg"].half()), "float16"),
        (lambda s: s["state"][0].update(exp_avg="text"), "exp_avg"),
        (lambda s: s["state"][0].update(step=1.5), "step"),
        (lambda s: s["state"][0].update(window="x"), "window"),
        (lambda s: s["state"][0].pop("window"), "window"),
        (lambda s: s["state"][0].pop("step"), "step"),
        (lambda s: s["param_groups"][0].pop("param_names"), "layers.0.w"),
        (lambda s: s["param_groups"][0].update(treatment="{}"), "layers.0.w"),
        (lambda s: s["param_groups"][0].update(step=None), "step"),
        (lambda s: s["param_groups"].pop(), "norm.w"),
        (lambda s: s.pop("param_groups"), "param_groups"),
        (lambda s: s.pop("state"), "state"),
    ],
    ids=range(14),
)
def test_a_spoiled_state_is_refused(spoil, words):
    params = tensors(SHAPES)
    optimizer = optimize(params)
    advance(optimizer, params, 4)
    saved = copy.deepcopy(optimizer.state_dict())
    spoil(saved)
    before = snapshot(optimizer, params)
    with pytest.raises(HybridOptError, match=words):
        optimizer.load_state_dict(saved)
    assert_same(before, snapshot(optimizer, params))
