"""What a direction takes for a moment that no kernel makes is planned to the byte, in pieces of its device."""

import pytest
import torch

from hybridopt.core.numerics.noise_tables import quantiles
from hybridopt.execution import probe_gradient
from hybridopt.execution.probe_gradient import shifted
from hybridopt.model.roles import Param
from hybridopt.planning.bytes.temporaries import Temporaries
from hybridopt.planning.trace.tracker import Tracker
from hybridopt.policy.methods.subzero import SubZeroPolicy
from hybridopt.policy.plan import Plan

NAME, SHAPE, CPU = "0.w", (512, 256), torch.device("cpu")


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_as_measured(dtype, cuda, monkeypatch):
    monkeypatch.setattr(probe_gradient, "PIECES", {"cpu": 1 << 15})
    monkeypatch.setattr(probe_gradient, "ELSEWHERE", 1 << 16)
    plan = Plan.of([Param(NAME, "linear", SHAPE, dtype)], SubZeroPolicy(rank=8))
    quantiles(CPU), quantiles(torch.device("meta"))  # what is made once
    drawing = Temporaries(plan, cuda).drawing
    if cuda:
        monkeypatch.setattr(probe_gradient, "PIECES", {})  # the CPU in its place
    weight, noise = torch.zeros(SHAPE, dtype=dtype), drawing.noise(plan.entries[0])
    with Tracker([weight, quantiles(CPU)]) as tracker:  # the table stays
        shifted(weight, 1.0, noise, False)
    assert drawing.alone[NAME] == tracker.peak - weight.nbytes > 0
