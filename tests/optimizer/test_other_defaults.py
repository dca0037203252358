"""Steps under another default device or dtype: every policy does as it does without."""

from contextlib import contextmanager, nullcontext

import pytest
import torch

from hybridopt import HybridOptimizer
from hybridopt.core.registry import names
from hybridopt.optimizer.gradients import reductions

APART = {"adafrugal", "qzo", "subzero"}  # which want losses told, codes, or steps by probe_step
PROBED = ("mezo", "zo", "addax")


def trained(policy, within):
    random = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.LayerNorm(32), torch.nn.Linear(32, 16))
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=random)
    x = torch.randn(4, 16, generator=random)
    optimizer = HybridOptimizer(model.named_parameters(), lr=1e-2, policy=policy, module=model)

    def loss():
        return model(x).square().mean()

    for _ in range(2):
        optimizer.zero_grad()
        loss().backward()
        with within():
            optimizer.step(loss if any(word in policy for word in PROBED) else None)
    return [p.detach() for p in model.parameters()]


@contextmanager
def half():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.filterwarnings("ignore:the output layer")
@pytest.mark.parametrize("policy", sorted(set(names("policies")) - APART))
def test_steps_where_new_tensors_are_made_elsewhere(policy):
    """On "meta", which has no numbers; a default of "cuda" is the usual one."""
    wanted = trained(policy, nullcontext)
    for within in (lambda: torch.device("meta"), half):
        for p, other in zip(trained(policy, within), wanted, strict=True):
            assert p.equal(other)


def test_norms_are_float32_whatever_the_default(monkeypatch):
    monkeypatch.setattr(reductions, "PIECE", 64)
    grad = torch.randn(1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    with half():
        found = reductions.norm(grad)
    assert found.dtype == torch.float32 and abs(float(found) / float(grad.double().norm()) - 1) < 1e-6
