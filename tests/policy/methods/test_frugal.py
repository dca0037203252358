"""FRUGAL, cell by cell, against its restatement over several windows; and the reference code's known bugs."""

import numpy as np
import pytest
import torch

from hybridopt.parts.splits.random import Random
from hybridopt.parts.splits.svd import Svd
from support.reference import frugal
from support.reference.rules import FREE, FULL
from support.training import give, gradient, optimize, tensors

GAP, WINDOWS = 3, 4
SHAPES = {"a.weight": (12, 8), "b.weight": (6, 20), "c.weight": (9, 9), "d.experts": (3, 6, 10)}
SPLITS = ("columns", "rows", "randk", "svd", "random", "block")
PAPER = {  # all subspaces are chosen in the same step
    "svd": {"split": Svd(0.5, GAP, solver="exact", spread=False)},
    "random": {"split": Random(0.5, GAP, spread=False)},
}
EXACT = {torch.float64: (1e-10, 1e-12), torch.float32: (2e-5, 2e-6)}


def entries(walk, count, total):
    start, stride = walk.tolist()
    return np.array([(start + i) * stride % total for i in range(count)])


def projection(split, state, g):
    """The restatement's projection; random choices are read from the optimizer's state, SVDs are done again."""
    if split == "block":
        return frugal.Block() if state else None
    if split == "svd":
        return frugal.leading(g, round(min(g.shape[-2:]) * 0.5), state["split.basis"].numpy())
    if split == "random":
        q = state["split.basis"].numpy()
        return frugal.Right(q) if g.shape[-2] >= g.shape[-1] else frugal.Left(q)
    if split == "randk":
        return frugal.Entries(entries(state["split.walk"], round(g.size * 0.5), g.size))
    return (frugal.Columns if split == "columns" else frugal.Rows)(state["split.index"].numpy())


def run(split, full, free, dtype, reset=True, decay=0.1, scale=0.3):
    params = tensors(SHAPES, dtype)
    options = {"full": full, "free": free, "reset": reset, "free_lr_scale": scale, "policy": "frugal"}
    options |= PAPER.get(split, {"split": split, "density": 0.5, "update_gap": GAP})
    optimizer = optimize(params, weight_decay=decay, **options)
    restated = {
        n: frugal.Frugal(p.detach().numpy(), FULL[full], FREE[free], 0.01, decay, scale) for n, p in params.items()
    }
    for step in range(GAP * WINDOWS):
        give(params, step)
        optimizer.step()
        for name, mine in restated.items():
            g = params[name].grad.numpy()
            if step % GAP == 0:
                mine.refresh(projection(split, optimizer.state.get(params[name]), g), reset)
            mine.step(g)
    return params, restated


def assert_equal(params, restated, dtype):
    rtol, atol = EXACT[dtype]
    for name, p in params.items():
        np.testing.assert_allclose(p.detach().numpy(), restated[name].weight, rtol, atol, err_msg=name)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("free", FREE)
@pytest.mark.parametrize("full", FULL)
@pytest.mark.parametrize("split", SPLITS)
def test_every_cell(split, full, free, dtype):
    decay = 0.0 if (split, free) == ("block", "no_update") else 0.1  # blocks that stand still do not decay
    assert_equal(*run(split, full, free, dtype, decay=decay), dtype)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("full", FULL)
@pytest.mark.parametrize("split", SPLITS)
def test_state_kept_over_windows(split, full, dtype):
    assert_equal(*run(split, full, "signsgd", dtype, reset=False), dtype)


def test_state_free_weights_decay_with_the_plain_lr():
    params = {"w": torch.nn.Parameter(torch.full((4, 4), 2.0))}
    optimizer = optimize(params, density=0.0, weight_decay=0.5, lr=0.1, lr_scale=0.25, free_lr_scale=0.1)
    params["w"].grad = torch.ones(4, 4)
    optimizer.step()
    torch.testing.assert_close(params["w"].detach(), torch.full((4, 4), 2.0 * (1 - 0.05) - 0.1 * 0.25 * 0.1))


def test_first_update_after_a_refresh_is_lr_for_every_coordinate():
    params = tensors({"w": (8, 8)})
    optimizer = optimize(params, density=0.5, update_gap=2, lr=0.01)
    for step in range(6):
        before = params["w"].detach().clone()
        give(params, step)
        optimizer.step()
        moved = (params["w"].detach() - before).abs()
        assert (abs(moved - 0.01).max() < 1e-5) == (step % 2 == 0)


def test_a_parameter_without_gradient_does_not_stop_the_clock():
    """The reference's window hangs on the first parameter: without a gradient there, it resets every step."""
    params = tensors({"a.weight": (8, 8), "b.weight": (8, 8)})
    optimizer = optimize(params, update_gap=4)
    ages, chosen = [], []
    for step in range(8):
        give(params, step)
        params["a.weight"].grad = None
        optimizer.step()
        ages.append(optimizer.state[params["b.weight"]]["step"])
        chosen.append(tuple(optimizer.state[params["b.weight"]]["split.index"].tolist()))
    assert ages == [1, 2, 3, 4, 1, 2, 3, 4]
    assert len(set(chosen[:4])) == len(set(chosen[4:])) == 1 and chosen[0] != chosen[4]
    assert params["a.weight"] not in optimizer.state


@pytest.mark.parametrize("split", SPLITS)
def test_a_gradient_missing_at_the_refresh(split):
    params = tensors({"a.weight": (8, 8), "b.weight": (8, 8)})
    optimizer = optimize(params, update_gap=2, split=split)
    for step in range(6):
        give(params, step)
        if step % 2 == 0:
            params["a.weight"].grad = None
        before = params["a.weight"].detach().clone()
        optimizer.step()
        assert params["a.weight"].detach().equal(before) == (step % 2 == 0)


@pytest.mark.parametrize("split", ["columns", "rows", "randk", "svd", "random"])
def test_what_rounds_to_nothing_is_one(split):
    """The reference truncates: three columns at density 0.25 become an empty state, silently."""
    params = tensors({"w": (3, 3)})
    optimizer = optimize(params, density=0.05, split=split)
    give(params, 0)
    optimizer.step()
    assert optimizer.state[params["w"]]["exp_avg"].numel() == (1 if split == "randk" else 3)


def test_momentum_starts_at_zero_and_not_at_the_weight():
    params = tensors({"w": (4, 4)})
    optimizer = optimize(params, full="momentum", density=0.5)
    before = params["w"].detach().clone()
    params["w"].grad = torch.zeros(4, 4)
    optimizer.step()
    assert params["w"].detach().equal(before)


@pytest.mark.parametrize("split", ["columns", "rows", "randk", "block"])
def test_state_free_and_state_full_parts_do_not_mix(split):
    """Full no_update, free signsgd: exactly the coordinates outside the state-full part move."""
    params = tensors({"a.weight": (8, 8), "b.weight": (8, 8)})
    optimizer = optimize(params, split=split, full="no_update", lr=0.5)
    before = {n: p.detach().clone() for n, p in params.items()}
    give(params, 0)
    optimizer.step()
    moved = sum((params[n].detach() != before[n]).sum().item() for n in params)
    assert moved == 64
    for name, p in params.items():
        step = (before[name] - p.detach()) / 0.5
        sign = gradient(name, p.shape, 0).sign().float()
        assert torch.allclose(torch.where(step == 0, sign, step), sign, atol=1e-6)


def test_a_density_schedule_changes_the_state():
    from hybridopt.core.registry import make

    params = tensors({"w": (4, 16)})
    schedule = make("schedules", "linear", start=0.5, end=0.0, steps=4)
    optimizer = optimize(params, density=schedule, update_gap=2)
    sizes = []
    for step in range(6):
        give(params, step)
        optimizer.step()
        sizes.append(optimizer.state[params["w"]]["exp_avg"].shape[-1] if optimizer.state.get(params["w"]) else 0)
    assert sizes == [8, 8, 4, 4, 0, 0]
