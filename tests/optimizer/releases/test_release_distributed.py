"""FSDP2 shards updated within the backward pass: two processes, gloo."""

import tempfile
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from hybridopt import HybridOptimizer
from support.ranks import Ranks
from support.sharding import by_layer
from support.sharding import kept as state_of

pytestmark = pytest.mark.slow

POLICIES = {
    "adamw": {"policy": "adamw", "weight_decay": 0.1},
    "columns": {"density": 0.5, "update_gap": 2},
    "block": {"split": "block", "density": 0.5, "update_gap": 2},
    "badam": {"policy": "badam", "update_gap": 2},
    "lion": {"policy": "lion", "codec": "bf16"},
    "clipped": {"policy": "adamw", "clip": 0.5, "clip_mode": "previous"},
    "measured": {"policy": "lomo", "clip": 0.5},
    "adalomo": {"policy": "adalomo"},
    "muon": {"policy": "muon"},
    "galore": {"policy": "galore", "density": 0.5, "update_gap": 2},
}
STEPS, RANKS = 4, 2


def model_of(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 5))  # 9 and 5 rows: uneven shards


def data(step):
    return torch.randn(RANKS * 4, 6, generator=torch.Generator().manual_seed(step))


def train(model, release, options, rank=None):
    optimizer = HybridOptimizer(model.named_parameters(), 0.05, release=release, **options)
    for step in range(STEPS):
        x = data(step)
        loss = model(x if rank is None else x[rank::RANKS]).square().mean()
        if options.get("clip") and "clip_mode" not in options:
            optimizer.measure(loss)
        loss.backward()
        if release == "fused":
            assert all(p.grad is None for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def sharded(model):
    return by_layer(model, [layer for layer in model if isinstance(layer, nn.Linear)])


def shards(folder):
    """All policies sharded; rank 0 saves the whole weights and the norm."""
    rank = distributed.get_rank()
    for name, options in POLICIES.items():
        for release in ("fused", "accumulate"):
            model = sharded(model_of())
            optimizer = train(model, release, options, rank)
            norm = optimizer.grad_norm
            whole = {n: p.full_tensor().detach() for n, p in model.named_parameters()}
            state = state_of(model, optimizer)
            kept = {n: state[f"{n}.exp_avg"] for n in whole if f"{n}.exp_avg" in state}
            if rank == 0:
                torch.save((whole, kept, norm), Path(folder) / f"{name}-{release}.pt")
    model = sharded(model_of())
    again = train(model, "fused", POLICIES["adamw"], rank)
    other = sharded(model_of())
    loaded = HybridOptimizer(other.named_parameters(), 0.05, **POLICIES["adamw"])
    loaded.load_state_dict(again.state_dict())
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert again.state[p]["exp_avg"].to_local().equal(loaded.state[q]["exp_avg"].to_local())


@pytest.fixture(scope="module")
def results():
    with tempfile.TemporaryDirectory() as folder, closing(Ranks(RANKS)) as ranks:
        ranks.run(shards, folder)
        yield {f.stem: torch.load(f) for f in Path(folder).glob("*.pt")}


@pytest.mark.parametrize("release", ["fused", "accumulate"])
@pytest.mark.parametrize("name", POLICIES)
def test_fsdp2_trains_as_one_process_does(name, release, results):
    plain = model_of()
    optimizer = train(plain, release, POLICIES[name])
    whole, kept, norm = results[f"{name}-{release}"]
    expected = state_of(plain, optimizer)
    for n, p in plain.named_parameters():
        torch.testing.assert_close(whole[n], p.detach(), rtol=1e-4, atol=1e-5)
        assert (n in kept) == (f"{n}.exp_avg" in expected)
        if n in kept:
            torch.testing.assert_close(kept[n].float(), expected[f"{n}.exp_avg"].float(), rtol=1e-2, atol=1e-4)
    if release == "fused":
        torch.testing.assert_close(norm, optimizer.grad_norm, rtol=1e-4, atol=1e-6)
