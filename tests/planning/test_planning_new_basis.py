"""What finding a subspace takes for a moment is planned to the byte."""

import pytest
import torch

from hybridopt.core.contracts import Draw
from hybridopt.model.roles import Param
from hybridopt.planning.bytes.temporaries import Temporaries
from hybridopt.planning.trace.tracker import Tracker
from hybridopt.policy.methods.frugal import Frugal
from hybridopt.policy.methods.galore import GaLore
from hybridopt.policy.methods.qgalore import QGaLore
from hybridopt.policy.plan import Plan

NAME, SHAPE = "0.w", (96, 64)
POLICIES = [GaLore(), GaLore(solver="exact"), QGaLore(), QGaLore(bits=32), Frugal(split="svd"), Frugal(split="random")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_as_measured(policy, dtype):
    plan = Plan.of([Param(NAME, "linear", SHAPE, dtype)], policy)
    job = plan.first(plan.entries[0])
    grad = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype)
    wide = {torch.float32: job.arithmetic}
    slots = job.part.slots(SHAPE).items()
    basis = {k: torch.zeros(slot.shape, dtype=wide.get(slot.dtype, slot.dtype)) for k, slot in slots}
    with torch.no_grad(), Tracker([grad, *basis.values()]) as tracker:
        job.part.sample(grad, basis, Draw(0, NAME))
    planned = {Temporaries(plan, cuda)._new_basis(plan.entries[0]) for cuda in (False, True)}
    assert planned == {tracker.peak} and tracker.peak > 0
