"""Column normalisation against its restatement; which side the outputs are on; momentum."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hybridopt import HybridOptError, Plan
from hybridopt.core.registry import make
from hybridopt.model.roles import params
from hybridopt.parts.rules.column_norm import ColumnNorm
from hybridopt.policy.methods.scale import SCALEPolicy
from support.reference.state_free import column_norm
from support.rule_driver import directions, extremes


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("axis", ["rows", "columns"])
@pytest.mark.parametrize("shape", [(14, 6), (5, 16), (300, 4), (1, 7), (7, 1)])
def test_as_restated(shape, axis):
    g = numbers(*shape)
    found = directions(ColumnNorm(axis=axis), [g], cuts=(1, 4))[0][0]
    np.testing.assert_allclose(found, column_norm(g.numpy(), 1 if axis == "rows" else 0), rtol=1e-12)


@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_momentum_is_normalised_in_place_of_the_gradient(axis):
    grads, mean = numbers(4, 6, 5), np.zeros((6, 5))
    found, state = directions(ColumnNorm(0.9, axis), grads, cuts=(2, 3))
    for g, out in zip(grads, found, strict=True):
        mean = 0.9 * mean + 0.1 * g.numpy()
        np.testing.assert_allclose(out, column_norm(mean, 1 if axis == "rows" else 0), rtol=1e-12)
    np.testing.assert_allclose(state["momentum_buffer"], mean, rtol=1e-12)


def test_outputs_are_found_by_the_module():
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(9, 4),
            "q": nn.Linear(4, 6),
            "t": Conv1D(6, 4),
            "c": nn.Conv1d(4, 6, 3),
            "last": nn.Linear(6, 9),
        }
    )
    plan = Plan.of(params(model), SCALEPolicy())
    axes = {e.param.name: e.treatment.free.axis for e in plan.entries if e.tag == "state-free"}
    assert axes == {"embed.weight": "columns", "q.weight": "rows", "t.weight": "columns", "c.weight": "rows"}
    said = ColumnNorm(axis="rows")
    assert said.fit(params(model)[0]) is said


@pytest.mark.parametrize("axis", ["rows", "columns"])
@pytest.mark.parametrize("name", extremes())
def test_no_gradient_is_too_small_or_too_large(name, axis):
    grads = extremes()[name]
    for given, out in zip(grads, directions(ColumnNorm(axis=axis), grads, dtype=torch.float32)[0], strict=True):
        assert out.isfinite().all() and out[given == 0].eq(0).all() and out.square().mean() < 1.001


@pytest.mark.parametrize("options", [{"momentum": 1.0}, {"momentum": -0.1}, {"axis": "inputs"}, {"axis": 1}], ids=str)
def test_bad_options_are_named(options):
    with pytest.raises(HybridOptError, match=next(iter(options))):
        make("rules", "column_norm", **options)
