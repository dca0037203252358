"""GaLore against its restatement and against the authors' own optimizer."""

import numpy as np
import pytest
import torch
from galore_torch import GaLoreAdamW

from support.reference.galore import GaLore
from support.training import give, optimize, tensors, twin

SHAPES = {"tall.weight": (14, 8), "wide.weight": (8, 14), "square.weight": (10, 10)}
GAP, STEPS, LR, SCALE = 4, 16, 0.02, 0.25


PAPER = {"solver": "exact", "spread": False}


def galore(params, **options):
    usual = {"density": 0.5, "update_gap": GAP, "scale": SCALE, "lr": LR}
    return optimize(params, policy="galore", **usual | options)


def rank(p, side="std"):
    size = {"std": min(p.shape), "reverse_std": max(p.shape), "left": p.shape[0], "right": p.shape[1]}
    return round(size[side] * 0.5)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
def test_as_restated(dtype, rtol):
    params = tensors(SHAPES, dtype)
    optimizer = galore(params, **PAPER)
    restated = {n: GaLore(p.detach().numpy(), rank(p), GAP, LR, SCALE) for n, p in params.items()}
    for step in range(STEPS):
        give(params, step)
        optimizer.step()
        for name, p in params.items():
            restated[name].step(p.grad.numpy(), optimizer.state[p]["split.basis"].numpy())
    for name, p in params.items():
        np.testing.assert_allclose(p.detach().numpy(), restated[name].weight, rtol, rtol / 10, err_msg=name)


@pytest.mark.parametrize("side", ["std", "reverse_std", "left", "right"])
def test_as_the_authors_package(side):
    """It adds eps before the bias correction, so a tiny eps is compared."""
    params = tensors(SHAPES)
    if side == "reverse_std":  # there the reference takes the side from the projected shape: wrong if rank is large
        params = {n: p for n, p in params.items() if n != "square.weight"}
    theirs = twin(params)
    mine = galore(params, side=side, full={"part": "rules.adamw", "eps": 1e-30}, **PAPER)
    common = {"update_proj_gap": GAP, "scale": SCALE, "proj_type": side}
    groups = [{"params": [p], "rank": rank(p, side), **common} for p in theirs.values()]
    reference = GaLoreAdamW(groups, lr=LR, eps=1e-30, no_deprecation_warning=True)
    for step in range(STEPS):
        give(params, step)
        give(theirs, step)
        mine.step()
        reference.step()
    for name, p in params.items():
        torch.testing.assert_close(p, theirs[name], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_weights_outside_the_subspace_get_the_full_rate():
    """The scale multiplies projected updates only."""
    params = tensors({"norm.weight": (6,), "a.weight": (6, 6)})
    optimizer = galore(params, density=1.0)
    before = {n: p.detach().clone() for n, p in params.items()}
    give(params, 0)
    optimizer.step()
    assert (before["norm.weight"] - params["norm.weight"].detach()).abs().mean() == pytest.approx(LR, rel=1e-4)
    assert (before["a.weight"] - params["a.weight"].detach()).abs().mean() == pytest.approx(LR * SCALE, rel=1e-4)


def test_moments_survive_a_refresh_unless_told_otherwise():
    ages = {}
    for reset in (False, True):
        params = tensors({"a.weight": (6, 6)})
        optimizer = galore(params, reset=reset, spread=False)
        ages[reset] = []
        for step in range(2 * GAP):
            give(params, step)
            optimizer.step()
            ages[reset].append(optimizer.state[params["a.weight"]]["step"])
    assert ages == {False: [*range(1, 9)], True: [1, 2, 3, 4, 1, 2, 3, 4]}


def test_the_state_is_plain_tensors():
    """The reference keeps projector objects, which torch.load(weights_only=True) refuses."""
    params = tensors(SHAPES)
    optimizer = galore(params)
    give(params, 0)
    optimizer.step()
    for state in optimizer.state.values():
        assert all(type(v) in (torch.Tensor, int) for v in state.values())


def test_an_svd_that_does_not_converge_is_named(monkeypatch):
    def broken(*_, **__):
        raise torch.linalg.LinAlgError("no")

    params = tensors(SHAPES)
    optimizer = galore(params, solver="exact")
    give(params, 0)
    monkeypatch.setattr(torch.linalg, "svd", broken)
    with pytest.raises(RuntimeError, match="tall.weight.*solver='subspace'"):
        optimizer.step()
