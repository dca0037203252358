"""Whole training runs under FSDP2: wrapped before or after, mixed precision, offload, both releases, LoRA, nf4."""

import warnings
from unittest.mock import patch

import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers.pytorch_utils import Conv1D

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer
from hybridopt.model.fsdp.state import cuts_numbers
from hybridopt.optimizer.replicas import replicas
from support.models import tiny_llama
from support.sharded_llama import LORA, llama
from support.sharded_probing import Loss, batch
from support.sharding import sharded

pytestmark = pytest.mark.slow

CELLS = {
    "before-adafactor": {"policy": "adafactor"},
    "after-adafactor": {"policy": "adafactor", "after": True},
    "before-muon-fused": {"policy": "muon", "release": "fused"},
    "before-adalomo-mixed": {"policy": "adalomo", "mixed": True},
    "before-apollo-offload": {"policy": "apollo", "offload": True},
    "after-adam_mini-offload-mixed": {"policy": "adam_mini", "after": True, "offload": True, "mixed": True},
    "before-galore": {"policy": "galore", "update_gap": 2},
    "lora-muon": {"policy": "muon", "lora": True},
    "lora-adam_mini-fused": {"policy": "adam_mini", "lora": True, "release": "fused"},
    "nf4-lora-frugal": {"policy": "frugal", "lora": True, "nf4": True},
}
STEPS = 3


def run(mixed=False, release="accumulate", ranks=True, **options):
    """Train on batches that all ranks share, so that the mean of their gradients is that of one process."""
    model = llama(ranks, mixed=mixed, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = model.hybrid.optimizer(lr=1e-2, release=release)
        for step in range(STEPS):
            tokens = torch.randint(0, 32, (2, 12), generator=torch.Generator().manual_seed(step))
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed and not ranks):
                loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    trainable = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return {n: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach() for n, p in trainable}, loss.item()


@pytest.mark.parametrize("name", CELLS)
def test_trains_as_one_process_does(name, two):
    expected, loss = run(ranks=False, **CELLS[name])
    (found, one), (other, also) = two.run(cell, name)
    assert one == also and found.keys() == expected.keys() == other.keys()
    loose = {"rtol": 0.1, "atol": 2e-2} if CELLS[name].get("mixed") else {"rtol": 2e-3, "atol": 2e-4}
    for n, x in expected.items():
        assert found[n].equal(other[n])
        torch.testing.assert_close(found[n], x, **loose)
    assert abs(one - loss) < (0.05 if CELLS[name].get("mixed") else 1e-3)


def packed():
    from torch.distributed.fsdp import fully_shard

    model = hybridopt.wrap(tiny_llama(), peft_config=LoraConfig(**LORA), quantization="int8")
    model = fully_shard(model)
    with pytest.raises(hybridopt.HybridOptError, match=r"q_proj.*is quantized .torch.int8.*ignored_params="):
        model.hybrid.optimizer(lr=1e-2)


@pytest.mark.skipif(not cuts_numbers(), reason="this torch shards floats alone")
def test_sharded_codes_without_their_scales_are_refused(two):
    two.run(packed)


def sampled(ranks=True):
    """Train linear layers that keep a part of their inputs, each sharded by itself before it is wrapped."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)), Conv1D(8, 8), nn.Linear(8, 2))
    for layer in model if ranks else ():
        fully_shard(layer)
    model = hybridopt.wrap(fully_shard(model) if ranks else model, policy="sgd", activations="wta-crs")
    optimizer = model.hybrid.optimizer(lr=1e-2)
    for step in range(2):
        model(torch.randn(20, 8, generator=torch.Generator().manual_seed(step))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {n: (p.full_tensor() if ranks else p).detach() for n, p in model.named_parameters()}


def test_sampled_inputs_are_those_of_one_process(two):
    expected = sampled(ranks=False)
    for found in two.run(sampled):
        for n, x in expected.items():
            torch.testing.assert_close(found[n], x, rtol=1e-4, atol=1e-5)


def spoilt(module, given, out):
    out.register_hook(lambda grad: grad * torch.nan)


def clipped(ranks=True):
    """Clip fused updates by every norm, also where this rank has no row, and measure a gradient that is not finite."""
    found = {}
    for mode in ("global", "previous", "tensor"):
        model = sharded(Loss()) if ranks else Loss()
        how = {"module": model, "policy": "adamw", "clip": 0.1, "clip_mode": mode, "release": "fused"}
        optimizer = HybridOptimizer(model.named_parameters(), 0.01, **how)
        for step in range(2):
            if mode == "global":
                optimizer.measure(model(batch(step)))
            model(batch(step)).backward()
            optimizer.step()
        found[mode] = {n: (p.full_tensor() if ranks else p).detach() for n, p in model.named_parameters()}
        if mode == "global":
            at_last = torch.zeros(4, 6, dtype=torch.long).fill_(12)  # a row of the last rank
            model.embed.register_forward_hook(spoilt)
            with pytest.raises(HybridOptError, match="gradient of 'embed.weight' is not finite"):
                optimizer.measure(model(at_last))
    return found


def test_fused_updates_are_clipped_by_norms_of_all_ranks(two):
    expected = clipped(ranks=False)
    for found in two.run(clipped):
        for mode, some in expected.items():
            for n, x in some.items():
                torch.testing.assert_close(found[mode][n], x, rtol=1e-4, atol=1e-6)


def reported(ranks=True):
    return str(llama(ranks, policy="frugal", lora=True).hybrid.report())


def test_a_report_counts_the_whole_model(two):
    assert set(two.run(reported)) == {reported(ranks=False)}


def chosen():
    with pytest.raises(
        HybridOptError, match=r"is sharded .fully_shard.: policy='auto' plans for one GPU.*plan --gpus"
    ):
        llama(True, after=True, policy="auto", memory="1GiB")


def test_a_policy_for_one_gpu_is_not_chosen_for_shards(two):
    two.run(chosen)


def looked_for():
    """Return how often all objects of the process are looked through for DDP, in three steps of fused updates."""
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(nn.Linear(8, 2))
    optimizer = hybridopt.wrap(model, policy="sgd").hybrid.optimizer(lr=1e-2, release="fused")
    with patch.object(replicas, "_around") as around:
        for _ in range(3):
            model(torch.ones(4, 8)).sum().backward()
            optimizer.step()
    return around.call_count


def test_nobody_looks_for_ddp_around_shards(two):
    assert two.run(looked_for) == [0, 0]


def cell(name):
    return run(**CELLS[name])
