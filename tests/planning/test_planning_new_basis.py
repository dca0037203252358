"""What finding a subspace takes for a moment is planned to the byte, and what a flag on the device may undo."""

from dataclasses import replace

import pytest
import torch

from hybridopt.core.contracts import Draw
from hybridopt.execution.conditional_updates import guarded
from hybridopt.execution.dispatch import run
from hybridopt.execution.meta_tasks import unfilled
from hybridopt.model.roles import Param
from hybridopt.planning.bytes.temporaries import Temporaries
from hybridopt.planning.trace.tracker import Tracker
from hybridopt.policy.methods.frugal import Frugal
from hybridopt.policy.methods.galore import GaLore
from hybridopt.policy.methods.muon import MuonPolicy
from hybridopt.policy.methods.qgalore import QGaLore
from hybridopt.policy.methods.swan import SWANPolicy
from hybridopt.policy.plan import Plan

NAME, SHAPE = "0.w", (96, 64)
POLICIES = [GaLore(), GaLore(solver="exact"), QGaLore(), QGaLore(bits=32), Frugal(split="svd"), Frugal(split="random")]


@pytest.mark.parametrize("flagged", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_as_measured(policy, dtype, flagged):
    plan = Plan.of([Param(NAME, "linear", SHAPE, dtype)], policy)
    job = plan.first(plan.entries[0])
    grad = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype)
    wide = {torch.float32: job.arithmetic}
    slots = job.part.slots(SHAPE).items()
    basis = {k: torch.zeros(slot.shape, dtype=wide.get(slot.dtype, slot.dtype)) for k, slot in slots}
    flag = torch.tensor(True) if flagged else None
    with torch.no_grad(), Tracker([grad, *basis.values()]) as tracker, guarded(flag, basis.values):
        job.part.sample(grad, basis, Draw(0, NAME))
    planned = {Temporaries(plan, cuda)._new_basis(plan.entries[0], flagged) for cuda in (False, True)}
    assert planned == {tracker.peak} and tracker.peak > 0


@pytest.mark.parametrize("policy", [MuonPolicy(dtype="float32"), SWANPolicy(dtype="float32")], ids=repr)
def test_updates_that_a_flag_may_undo_keep_what_they_write(policy):
    plan = Plan.of([Param(NAME, "linear", SHAPE, torch.float32)], policy)
    task = unfilled(NAME, plan.first(plan.entries[0]), torch.float32, None)
    found = {}
    for flag in (None, torch.tensor(True)):
        with torch.no_grad(), Tracker([task.param, task.grad, *task.raw.values()]) as tracker:
            run([replace(task, sound=flag)], compile=False)
        found[flag is not None] = tracker.peak
    temporaries = Temporaries(plan, cuda=True)
    assert {flagged: temporaries._alone(NAME, flagged) for flagged in found} == found
    assert temporaries.alone(NAME) == found[True] and temporaries.together() == found[False] < found[True]
    assert Temporaries(plan, cuda=False).alone(NAME) == found[False], "a CPU reads its flags at once"


def test_updates_within_subspaces_take_what_their_coordinates_do():
    """One within the backward pass its own, and those of a step the coordinates and gradients of all together."""
    names = [f"{i}.w" for i in range(5)]
    plan = Plan.of([Param(name, "linear", SHAPE, torch.float32) for name in names], GaLore())
    tasks = [unfilled(name, plan.first(plan.entries[0]), torch.float32, None) for name in names]
    found = []
    for some in (tasks[:1], tasks):
        known = [x for task in some for x in (task.param, task.grad, *task.raw.values())]
        with torch.no_grad(), Tracker(known) as tracker:
            run(some, compile=False)
        found.append(tracker.peak)
    temporaries = Temporaries(plan, cuda=False)
    basis = temporaries._new_basis(plan.entries[0], False)
    assert temporaries._first_order(plan.entries[0], False) == max(found[0], basis)
    assert 0 <= found[1] - temporaries._update(plan.entries, False) <= 16 and found[1] > 3 * found[0]
