"""Subspaces that change at steps of their own: every parameter on time, at none of the others' cost, and resumed."""

import json

import pytest
import torch

from hybridopt import HybridOptError
from hybridopt.parts.schedules.linear import Linear
from hybridopt.parts.splits.random import Random
from hybridopt.parts.splits.svd import Svd
from support.training import advance, assert_same, give, optimize, snapshot, tensors, through_a_file, twin

GAP = 4
SHAPES = {f"layers.{i}.weight": (6, 4) for i in range(8)}


def galore(params, **options):
    return optimize(params, policy="galore", **{"density": 0.5, "update_gap": GAP, "lr": 0.01} | options)


def refreshed(params, optimizer, steps):
    """The steps at which each basis has changed, by name."""
    found, last = {n: [] for n in params}, {}
    for step in range(steps):
        give(params, step)
        optimizer.step()
        for name, p in params.items():
            basis = optimizer.state[p]["split.basis"]
            if name not in last or not basis.equal(last[name]):
                found[name].append(step)
            last[name] = basis.clone()
    return found


@pytest.mark.parametrize("split", [Svd, Random])
def test_each_basis_changes_every_gap_steps_at_steps_of_its_own(split):
    params = tensors(SHAPES)
    found = refreshed(params, optimize(params, policy="frugal", split=split(0.5, GAP)), 4 * GAP)
    for name, steps in found.items():
        first = GAP - split(0.5, GAP).ahead(0, name)
        assert steps == [0, *range(first, 4 * GAP, GAP)], name
    assert len({steps[1] for steps in found.values()}) > 2


def test_all_at_once_where_that_is_asked_for():
    params = tensors(SHAPES)
    found = refreshed(params, galore(params, spread=False), 2 * GAP + 1)
    assert all(steps == [0, GAP, 2 * GAP] for steps in found.values())


def test_the_steps_follow_from_seed_and_name_and_fill_the_window():
    split = Svd(0.25, 200)
    ahead = {seed: [split.ahead(seed, f"model.layers.{i}.mlp.up_proj.weight") for i in range(400)] for seed in (0, 1)}
    assert ahead[0] != ahead[1] and ahead[0] == [
        split.ahead(0, f"model.layers.{i}.mlp.up_proj.weight") for i in range(400)
    ]
    assert min(ahead[0]) < 10 and max(ahead[0]) > 189
    assert max(map(ahead[0].count, ahead[0])) < 10, "of 400 refreshes in 200 steps"


def test_windows_begin_where_they_say():
    split = Svd(0.25, GAP)
    for ahead in range(GAP):
        windows = [split.window(step, ahead) for step in range(5 * GAP)]
        assert windows[0] == 0 and sorted(windows) == windows
        for window in range(4):
            assert windows.index(window) == split.begin(window, ahead)


def test_a_density_that_changes_changes_everywhere_at_once():
    split = Svd(Linear(0.5, 0.25, 10), GAP)
    assert {split.ahead(0, name) for name in SHAPES} == {0}
    assert {Svd(0.5, GAP, spread=False).ahead(0, name) for name in SHAPES} == {0}


@pytest.mark.parametrize("spread", [1, "yes", None])
@pytest.mark.parametrize("split", [Svd, Random])
def test_anything_but_yes_and_no_is_refused(split, spread):
    with pytest.raises(HybridOptError, match=f"spread={spread!r} is not allowed; give True or False"):
        split(0.5, GAP, spread=spread)


# ---- states of older versions, whose subspaces were exact and changed all at once


def older(state):
    """The state as it was saved before these options were there."""
    for group in state["param_groups"]:
        treatment = json.loads(group["treatment"])
        for option in ("solver", "spread"):
            treatment["split"].pop(option, None)
        group["treatment"] = json.dumps(treatment)
    return state


PAPER = {"solver": "exact", "spread": False}


def test_an_older_state_goes_on_as_it_did():
    params = tensors(SHAPES)
    whole = galore(params, **PAPER)
    advance(whole, params, GAP + 2)
    others, state = twin(params), older(through_a_file(whole.state_dict()))
    resumed = galore(others, **PAPER)
    resumed.load_state_dict(state)
    for optimizer, own in ((whole, params), (resumed, others)):
        advance(optimizer, own, GAP, GAP + 2)
    assert_same(snapshot(whole, params), snapshot(resumed, others))


def test_an_older_state_does_not_go_on_otherwise_unsaid():
    params = tensors(SHAPES)
    whole = galore(params, **PAPER)
    advance(whole, params, 2)
    words = r"split.solver 'exact', now 'subspace'; split.spread False, now True\); make the optimizer with the policy"
    with pytest.raises(HybridOptError, match=words):
        galore(twin(params)).load_state_dict(older(through_a_file(whole.state_dict())))


def test_a_window_of_another_time_is_refused():
    params = tensors(SHAPES)
    optimizer = galore(params)
    advance(optimizer, params, 2)
    state = through_a_file(optimizer.state_dict())
    name = min(SHAPES, key=lambda name: Svd(0.5, GAP).ahead(0, name))
    assert Svd(0.5, GAP).window(2, Svd(0.5, GAP).ahead(0, name)) == 0
    state["state"][list(SHAPES).index(name)]["window"] = 1
    with pytest.raises(HybridOptError, match=f"{name}.*window=1"):
        galore(twin(params)).load_state_dict(state)


@pytest.mark.filterwarnings("ignore:1 of 8 parameters got no gradient")
def test_a_parameter_that_comes_late_begins_with_its_first_gradient():
    params = tensors(SHAPES)
    optimizer = galore(params)
    late = params["layers.3.weight"]
    for step in range(3 * GAP):
        give(params, step)
        if step < GAP + 1:
            late.grad = None
        optimizer.step()
        assert (late in optimizer.state and bool(optimizer.state[late])) == (step >= GAP + 1)
    q = optimizer.state[late]["split.basis"]
    torch.testing.assert_close(q.mT @ q, torch.eye(2), rtol=0, atol=1e-5)
