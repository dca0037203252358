"""Gradients whose norm the training loop has worked out already are not read once more."""

import math

import pytest
import torch
from torch import nn

from hybridopt import HybridOptError, HybridOptimizer

INF = float("inf")


def made(**options):
    """An optimizer of two parameters that have gradients of 1."""
    params = [nn.Parameter(torch.ones(4, 8)), nn.Parameter(torch.ones(8))]
    for p in params:
        p.grad = torch.ones_like(p)
    named = [("layers.0.weight", params[0]), ("layers.0.bias", params[1])]
    return params, HybridOptimizer(named, lr=0.5, policy="signsgd", **options)


@pytest.fixture
def looked(monkeypatch):
    """How often gradients were read for a look."""
    found, finite = [], torch.Tensor.sum
    monkeypatch.setattr(torch.Tensor, "sum", lambda x, *args, **kw: (found.append(1), finite(x, *args, **kw))[1])
    return found


def test_a_finite_norm_that_was_told_spares_the_look(looked):
    params, optimizer = made(compile=False)
    optimizer.tell_norm(nn.utils.clip_grad_norm_(params, 1.0))
    optimizer.step()
    assert not looked and params[0].eq(0.5).all()
    optimizer.step()  # it held for one step
    assert looked


@pytest.mark.parametrize("how", ["in place", "another", "one more", "before the norm", "infinite", "a number"])
def test_what_has_changed_since_is_read(how):
    params, optimizer = made(compile=False)
    grad = params[0].grad
    if how == "one more":
        params[0].grad = None
    if how == "before the norm":
        grad[0, 0] = INF
    norm = nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
    optimizer.tell_norm({"infinite": INF, "a number": 1.0}.get(how, norm))
    if how in ("in place", "infinite", "a number"):
        grad[0, 0] = float("nan")
    if how in ("another", "one more"):
        params[0].grad = torch.full_like(grad, INF)
    with pytest.raises(HybridOptError, match="'layers.0.weight' is not finite"):
        optimizer.step()
    assert all(p.eq(1).all() for p in params)


def test_a_norm_of_some_parameters_is_none_of_others(looked):
    params, optimizer = made(compile=False)
    optimizer.tell_norm(nn.utils.clip_grad_norm_(params[:1], 1.0), params[:1])
    params[1].grad[3] = INF
    with pytest.raises(HybridOptError, match="'layers.0.bias' is not finite"):
        optimizer.step()
    params[1].grad.fill_(1.0)
    looked.clear()
    optimizer.tell_norm(nn.utils.clip_grad_norm_(params, 1.0), [*params, nn.Parameter(torch.ones(3))])
    optimizer.step()
    assert not looked


@pytest.mark.parametrize("release", ["accumulate", "fused"])
@pytest.mark.parametrize("nonfinite", ["raise", "ignore"])
@pytest.mark.parametrize("mode", ["global", "tensor"])
def test_gradients_whose_squares_overflow_are_clipped_not_lost(mode, nonfinite, release):
    if mode == "global" and release == "fused":
        mode = "previous"
    params = [nn.Parameter(torch.zeros(4, 8)), nn.Parameter(torch.zeros(8))]
    named = [("layers.0.weight", params[0]), ("layers.0.bias", params[1])]
    optimizer = HybridOptimizer(
        named, lr=1.0, policy="lomo", release=release, clip=1.0, clip_mode=mode, nonfinite=nonfinite, compile=False
    )
    (params[0].sum() * 1e25).backward()
    optimizer.step()
    assert torch.linalg.vector_norm(params[0].detach()).item() == pytest.approx(1.0)
    assert math.isclose(float(optimizer.grad_norm), 32**0.5 * 1e25, rel_tol=1e-6)


def test_a_step_with_the_norm_told_is_the_step_without():
    results = []
    for told in (True, False):
        params, optimizer = made()
        norm = nn.utils.clip_grad_norm_(params, 0.1)
        if told:
            optimizer.tell_norm(norm)
        optimizer.step()
        results.append([p.detach().clone() for p in params])
    assert all(a.equal(b) for a, b in zip(*results, strict=True))
