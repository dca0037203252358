"""Muon against its restatement and against torch's own."""

import numpy as np
import pytest
import torch

from hybridopt import HybridOptError, Plan, wrap
from hybridopt.model.roles import params
from hybridopt.parts.rules.muon import Muon
from hybridopt.policy.methods.muon import MuonPolicy
from support import models
from support.reference.muon import Muon as Restated
from support.rule_driver import state_for, step
from support.training import give, optimize, tensors, twin

SHAPES = {"tall.weight": (14, 8), "wide.weight": (8, 14), "square.weight": (10, 10), "row.weight": (1, 6)}
RULE = Muon()


def numbers(shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", SHAPES.values())
def test_as_restated(shape, nesterov, adjust):
    m, n = shape
    factor = max(1, m / n) ** 0.5 if adjust == "original" else 0.2 * max(m, n) ** 0.5
    rule, restated = Muon(0.9, nesterov, 4, adjust), Restated(0.9, nesterov, 4, factor)
    state = state_for(rule, shape)
    for t in range(1, 7):
        g = numbers(shape, t)
        np.testing.assert_allclose(step(rule, g, state, t=t), restated(g.numpy()), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_as_torchs_own(nesterov, adjust, monkeypatch):
    """torch iterates in bfloat16; without that rounding both agree."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda x: x.clone())
    mine, theirs = trajectories(nesterov, adjust, "auto", torch.float64)
    for name, p in mine.items():
        torch.testing.assert_close(p, theirs[name], rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def test_as_torchs_own_in_bfloat16():
    mine, theirs = trajectories(True, "match_rms_adamw", "bfloat16", torch.float32)
    start = tensors(SHAPES)
    for name, p in mine.items():
        moved = (theirs[name] - start[name]).norm()
        assert (p - theirs[name]).norm() < 0.05 * moved, name


def trajectories(nesterov, adjust, dtype, arithmetic):
    mine = tensors(SHAPES, arithmetic)
    theirs = twin(mine)
    settings = {"lr": 0.02, "weight_decay": 0.1, "nesterov": nesterov}
    reference = torch.optim.Muon(theirs.values(), adjust_lr_fn=adjust, **settings)
    settings = {"lr": 0.02, "weight_decay": 0.1, "policy": MuonPolicy(nesterov=nesterov, adjust=adjust, dtype=dtype)}
    optimizer = optimize(mine, **settings)
    for i in range(12):
        give(mine, i)
        give(theirs, i)
        optimizer.step()
        reference.step()
    return mine, theirs


def test_singular_values_come_close_to_one():
    for shape in [(40, 20), (20, 40)]:
        rule = Muon(adjust="original")
        out = step(rule, numbers(shape), state_for(rule, shape)) / max(1, shape[0] / shape[1]) ** 0.5
        values = torch.linalg.svdvals(out)
        assert values.min() > 0.5 and values.max() < 1.3


def test_a_stack_is_updated_as_its_members():
    together, apart = state_for(RULE, (3, 8, 5)), [state_for(RULE, (8, 5)) for _ in range(3)]
    for t in range(1, 4):
        g = numbers((3, 8, 5), t) * torch.tensor([1.0, 1e-3, 1e3], dtype=torch.float64).view(3, 1, 1)
        each = [step(RULE, x, s, t=t) for x, s in zip(g, apart, strict=True)]
        torch.testing.assert_close(step(RULE, g, together, t=t), torch.stack(each), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_gradient_is_too_small_or_too_large(dtype):
    rule, g = Muon(dtype=dtype), numbers((6, 4)).float()
    usual = step(rule, g, state_for(rule, (6, 4), torch.float32))
    assert step(rule, 0 * g, state_for(rule, (6, 4), torch.float32)).eq(0).all()
    for size in (1e-5, 1e15):
        out = step(rule, size * g, state_for(rule, (6, 4), torch.float32))
        torch.testing.assert_close(out, usual, rtol=2e-2, atol=2e-2)
    for size in (1e-30, 1e30):
        assert step(rule, size * g, state_for(rule, (6, 4), torch.float32)).norm() <= usual.norm()


def test_the_state_is_the_momentum():
    rule = Muon(momentum=0.9)
    state = state_for(rule, (6, 4))
    for t in range(1, 3):
        step(rule, torch.ones(6, 4, dtype=torch.float64), state, t=t)
    torch.testing.assert_close(state["momentum_buffer"], torch.full((6, 4), 0.19, dtype=torch.float64))


@pytest.mark.parametrize(
    "options",
    [{"momentum": 1.0}, {"nesterov": 1}, {"ns_steps": 0}, {"adjust": "none"}, {"dtype": "float16"}],
    ids=str,
)
def test_bad_options_are_named(options):
    with pytest.raises(HybridOptError, match=next(iter(options))):
        MuonPolicy(**options)


def test_matrices_by_muon_everything_else_by_adamw():
    for make in (models.tiny_llama, models.tiny_resnet, models.tiny_moe):
        for entry in Plan.of(params(make()), MuonPolicy(lr_scale=3.0)).entries:
            inner = entry.param.role in ("linear", "conv")
            assert type(entry.treatment.full).__name__ == ("Muon" if inner else "AdamW"), entry
            assert entry.treatment.lr_scale == (3.0 if inner else 1.0)


@pytest.mark.parametrize("codec", ["fp32", "int8"])
def test_the_loss_falls(codec):
    model = wrap(models.tiny_llama(), policy="muon", codec=codec)
    optimizer, losses = model.hybrid.optimizer(lr=3e-3), []
    for _ in range(12):
        loss = model(**models.batch(model)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
