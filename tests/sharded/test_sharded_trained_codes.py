"""Weights that are trained as 8-bit codes, cut by FSDP2: all gives what one process gives."""

from unittest.mock import patch

import pytest
import torch
from torch import nn

import hybridopt
from hybridopt.execution.backends.native import Native
from support.sharding import going_on, kept, trained, weights

pytestmark = pytest.mark.slow

EXACT = {
    "adamw": {"policy": "adamw", "compile": False},
    "lion": {"policy": "lion", "codec": "bf16"},
    "columns": {"density": 0.5, "update_gap": 2},
    "badam": {"policy": "badam", "update_gap": 2},
    "qgalore": {"policy": "qgalore", "density": 0.5, "update_gap": 2},
    "muon": {"policy": "muon"},
}
CLOSE = {"adafactor": {"policy": "adafactor"}, "apollo": {"policy": "apollo"}}


class Wide(nn.Module):
    """Rows of whole and of half groups; 11, 7 and 1 rows, which no number of ranks divides."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 7))
        self.short = nn.Linear(128, 11)
        self.last = nn.Linear(256, 1)

    def forward(self, x):
        return self.layers(x).sum(-1) + self.short(x[:, :128]).sum(-1) + self.last(x).sum(-1)


def wide(ranks, policy="adamw", told=None, **options):
    from torch.distributed.fsdp import fully_shard

    model = hybridopt.wrap(Wide(), policy=policy, quantization="int8-trainable", **options)
    for layer in (model.layers, model.short) if ranks else ():
        fully_shard(layer, **(told or {}))
    return fully_shard(model, **(told or {})) if ranks else model


def one(options, ranks=False):
    model = wide(ranks)
    with patch.object(Native, "fits", lambda self, task: False):  # torch's kernels round the ends of tensors otherwise
        trained(model, options, steps=5)
    return weights(model)


@pytest.mark.parametrize("name", [*EXACT, *CLOSE])
def test_updates_are_those_of_one_process(name, two, three):
    alone, before = one((EXACT | CLOSE)[name]), weights(wide(False))
    for found in (*two.run(one, (EXACT | CLOSE)[name], True), *three.run(one, (EXACT | CLOSE)[name], True)):
        for n, x in alone.items():
            bound = 0 if name in EXACT else 0.02  # of one level of a code that sums in another order have moved
            assert (x - found[n]).abs().max() <= bound * (x - before[n]).abs().max(), n


def stepped(ranks, out=None, release="accumulate", told=None, policy="lion", steps=3):
    """Train by gradients of a backward pass, the same on all ranks, and save; return weights."""
    model = wide(ranks, policy, told)
    optimizer = model.hybrid.optimizer(lr=1e-3, release=release)
    for step in range(steps):
        x = torch.randn(4, 256, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    if out:
        model.hybrid.save_pretrained(out)
    return weights(model)


def several(out):
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy

    offload = {"offload_policy": CPUOffloadPolicy(pin_memory=False)}
    mixed = {"mp_policy": MixedPrecisionPolicy(torch.bfloat16)}
    return {
        "accumulate": stepped(True, out),
        "fused": stepped(True, release="fused"),
        "offload": stepped(True, told=offload),
        "kept": stepped(True, told={"reshard_after_forward": False}),
        "mixed": stepped(True, told=mixed),
    }


def test_training_and_saving(two, tmp_path):
    alone = stepped(False, tmp_path / "one")
    for found in two.run(several, str(tmp_path / "two")):
        for n, x in alone.items():
            assert x.equal(found["accumulate"][n]), n
            for name in ("fused", "offload", "kept"):
                assert x.equal(found[name][n]), (name, n)
            torch.testing.assert_close(found["mixed"][n], x, rtol=0, atol=0.02)
    for file in (tmp_path / "one").iterdir():
        if file.suffix == ".safetensors":
            assert (tmp_path / "two" / file.name).read_bytes() == file.read_bytes(), file.name
    again = hybridopt.from_pretrained(Wide(), tmp_path / "two")
    assert all(x.equal(alone[n]) for n, x in weights(again).items())


def part(number, place, ranks=True):
    model = wide(ranks)
    optimizer = hybridopt.HybridOptimizer(model.named_parameters(), 0.05, module=model, policy="adamw", compile=False)
    with going_on(model, optimizer, place, number), patch.object(Native, "fits", lambda self, task: False):
        trained(model, {}, first=2 * number, steps=2, optimizer=optimizer)
    return weights(model), kept(model, optimizer)


def test_checkpoints_go_on_with_other_ranks(two, three, tmp_path):
    two.run(part, 0, str(tmp_path))
    three.run(part, 1, str(tmp_path))
    found, state = part(2, str(tmp_path), ranks=False)
    model = wide(False)
    with patch.object(Native, "fits", lambda self, task: False):
        optimizer = trained(model, {"policy": "adamw", "compile": False}, steps=6)
    assert all(x.equal(found[n]) for n, x in weights(model).items())
    assert all(torch.equal(torch.as_tensor(x), torch.as_tensor(state[n])) for n, x in kept(model, optimizer).items())


def loaded(place, out):
    """Load onto shards of floats, save that again, and quantize shards; return weights of both."""
    from torch.distributed.fsdp import fully_shard

    def base():
        model = Wide()
        for layer in (model.layers, model.short):
            fully_shard(layer)
        return fully_shard(model)

    model = hybridopt.from_pretrained(base(), place)
    model.hybrid.save_pretrained(out)
    late = hybridopt.wrap(base(), policy="lion", quantization="int8-trainable")
    own = [p.to_local().codes.numel() / p.numel() for n, p in late.named_parameters() if "layers.0.weight" in n]
    answer = model(torch.ones(2, 256)).detach()
    return weights(model), answer, weights(late), own, late(torch.ones(2, 256)).detach()


def test_loading_onto_shards(two, tmp_path):
    model = wide(False, "lion")
    first, begun = weights(model), model(torch.ones(2, 256)).detach()
    alone = stepped(False, tmp_path / "one")
    again = hybridopt.from_pretrained(Wide(), tmp_path / "one")
    for found, answer, late, own, before in two.run(loaded, str(tmp_path / "one"), str(tmp_path / "two")):
        assert all(x.equal(found[n]) for n, x in alone.items())
        assert all(x.equal(late[n]) for n, x in first.items())
        assert answer.equal(again(torch.ones(2, 256))) and before.equal(begun) and own == [0.5]
    for file in (tmp_path / "one").glob("*.safetensors"):
        assert (tmp_path / "two" / file.name).read_bytes() == file.read_bytes(), file.name


def refused():
    """A group of 128 columns and 3 rows a rank would lie on two: nothing is changed."""
    from torch.distributed.fsdp import fully_shard

    def base():
        return nn.Sequential(nn.Linear(128, 8), nn.Linear(8, 2))

    model = fully_shard(base())
    before = [(id(p), p.to_local().clone()) for p in model.parameters()]
    with pytest.raises(hybridopt.HybridOptError, match=r"'0' \(shape \(8, 128\)\) is sharded over 3 ranks.*take DDP"):
        hybridopt.wrap(model, policy="lion", quantization="int8-trainable")
    assert all(id(p) == i and p.to_local().equal(x) for p, (i, x) in zip(model.parameters(), before, strict=True))
    with pytest.raises(hybridopt.HybridOptError, match=r"\(8, 128\) cannot be cut after every 3 rows"):
        fully_shard(hybridopt.wrap(base(), policy="lion", quantization="int8-trainable"))


def test_what_would_cut_a_group_is_refused(three):
    three.run(refused)


def probed():
    """Shifted codes would be rounded: nothing is changed."""
    model = wide(True, "mezo")
    before = weights(model)
    optimizer = model.hybrid.optimizer(lr=1e-2)
    with pytest.raises(hybridopt.HybridOptError, match=r"'layers.0.weight' is sharded, and kept as codes.*replicas"):
        optimizer.step(lambda: model(torch.ones(2, 256)).square().mean())
    assert all(x.equal(before[n]) for n, x in weights(model).items())


def test_probes_of_codes_are_refused(two):
    two.run(probed)


def begun_alone(folder):
    """A checkpoint of one process has floats or codes of whole weights: nothing is changed."""
    from pathlib import Path

    from hybridopt.integrations.trainer_whole import read_whole_weights

    model = wide(True, "adamw")
    before = weights(model)
    with pytest.raises(hybridopt.HybridOptError, match=r"without shards, and 'layers.0.weight' is trained as codes"):
        read_whole_weights(Path(folder), model)
    return all(x.equal(before[n]) for n, x in weights(model).items())


def test_a_checkpoint_without_shards_is_refused(two, tmp_path):
    from safetensors.torch import save_file

    save_file({n: x + 1 for n, x in Wide().state_dict().items()}, tmp_path / "model.safetensors")
    assert two.run(begun_alone, str(tmp_path)) == [True, True]
