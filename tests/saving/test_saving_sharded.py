"""FSDP2 models are wrapped, trained and saved as plain ones are: two processes, gloo."""

import itertools
import tempfile
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import distributed, nn

import hybridopt
from hybridopt import HybridOptError
from hybridopt.model.base_record import record
from hybridopt.model.checksums import checksum
from hybridopt.model.fsdp.sharded_tensors import sharded_tensors
from support.models import tiny_llama
from support.ranks import Ranks
from support.sharding import by_layer

pytestmark = pytest.mark.slow

RANKS, STEPS = 2, 2
LORA = {"r": 3, "target_modules": ["q_proj", "down_proj"], "modules_to_save": ["lm_head"]}  # 3 rows: uneven shards
CHOICES = itertools.product((False, True), repeat=3)  # LoRA? wrapped before it is sharded? bf16 in between?
WORDS = (("full", "lora"), ("after", "before"), ("fp32", "bf16"))
SCENES = {"-".join(word[i] for word, i in zip(WORDS, each, strict=True)): each for each in CHOICES}


def odd():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 1))  # 9 rows and 1 row: rank 1 has 4 and none


def sharded(model, half=False):
    from torch.distributed.fsdp import MixedPrecisionPolicy

    policy = {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16)} if half else {}
    return by_layer(model, () if isinstance(model, nn.Sequential) else None, **policy)


def made(lora, before, half, shards=True):
    model, config = tiny_llama(), LoraConfig(**LORA) if lora else None
    torch.manual_seed(3)
    if before:
        model = hybridopt.wrap(model, policy="adamw", peft_config=config)
        return sharded(model, half) if shards else model
    model = get_peft_model(model, config) if lora else model
    return hybridopt.wrap(sharded(model, half) if shards else model, policy="adamw")


def step(model):
    """Steps whose gradients are given, the same in one process and in several: sharding is what is tested."""
    optimizer = model.hybrid.optimizer(lr=1e-2)
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for number in range(STEPS):
        for name, p in sorted(named.items()):
            random = torch.Generator().manual_seed(number + len(name))
            p.grad = place(torch.randn(p.shape, generator=random), p)
        optimizer.step()
        optimizer.zero_grad()


def place(x, p):
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x, p.device_mesh, p.placements) if hasattr(p, "device_mesh") else x


@torch.no_grad()
def answers(model):
    tokens = torch.arange(96).view(4, 24)
    return model.eval()(input_ids=tokens).logits


def whole(model):
    return {n: p.full_tensor() if hasattr(p, "full_tensor") else p.detach() for n, p in model.named_parameters()}


def scenes(rank, folder):
    for name, (lora, before, half) in SCENES.items():
        model = made(lora, before, half)
        answers(model)  # leaves the parameters of the root whole, in bfloat16
        step(model)
        model.train()(input_ids=torch.arange(96).view(4, 24), labels=torch.arange(96).view(4, 24)).loss.backward()
        answers(model)
        model.hybrid.save_pretrained(folder / name)
        assert (folder / name / "hybridopt_manifest.json").exists(), "it is complete on all ranks"
        kept = whole(model) if not hasattr(model, "reshard") else (model.reshard(), whole(model))[1]
        if rank == 0:
            torch.save(kept, folder / f"{name}.pt")


def streams(folder):
    """No more than one tensor is whole at a time, and each rank keeps none of them."""
    from hybridopt.model.fsdp import sharded_tensors

    model = made(False, True, False)
    step(model)
    alive, most, gather = [], [0], sharded_tensors.whole

    def counted(x):
        import weakref

        made = gather(x)
        alive[:] = [r for r in alive if r() is not None] + [weakref.ref(made)]
        most[0] = max(most[0], len(alive))
        return made

    from hybridopt.saving import ranks

    sharded_tensors.whole = ranks.whole = counted
    try:
        model.hybrid.save_pretrained(folder / "streamed")
    finally:
        sharded_tensors.whole = ranks.whole = gather
    assert 0 < most[0] <= 2, most


def checks(rank, folder):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    plain, split = odd(), sharded(odd())
    assert record(split) == record(plain)
    assert len(sharded_tensors(split)) == 4
    x, mesh = torch.randn(5, 9), next(split.parameters()).device_mesh
    distributed.broadcast(x, 0)
    for at in (Shard(0), Shard(1), Replicate()):
        assert checksum(distribute_tensor(x, mesh, [at])) == checksum(x)
    model = hybridopt.wrap(split, policy="adamw")
    step(model)
    model.hybrid.save_pretrained(folder / "odd")
    again = hybridopt.from_pretrained(odd(), folder / "odd")
    alone = hybridopt.wrap(odd(), policy="adamw")
    step(alone)
    expected = whole(alone)
    assert all(torch.equal(p, expected[n]) for n, p in again.named_parameters())
    onto = hybridopt.from_pretrained(sharded(odd()), folder / "odd")
    assert all(torch.equal(x, expected[n]) for n, x in whole(onto).items())
    onto.hybrid.save_pretrained(folder / "again")
    names = ("hybridopt_delta.safetensors", "hybridopt_config.json")
    assert all((folder / "odd" / n).read_bytes() == (folder / "again" / n).read_bytes() for n in names)
    alone.hybrid.save_pretrained(folder / f"alone-{rank}")
    assert all((folder / "odd" / n).read_bytes() == (folder / f"alone-{rank}" / n).read_bytes() for n in names)
    with pytest.raises(HybridOptError, match=r"'0.weight' is sharded.*wrap first, then fully_shard"):
        hybridopt.wrap(sharded(odd()), quantization="nf4")
    interrupted(model, rank, folder / "odd")
    (folder / "file").touch()
    distributed.barrier()
    text = "cannot save to" if rank == 0 else "rank 0, which writes for all, could not save: cannot save to"
    with pytest.raises(HybridOptError, match=text):
        model.hybrid.save_pretrained(folder / "file" / "below")
    model.hybrid.save_pretrained(folder / "odd")


def interrupted(model, rank, folder):
    """A save that fails on the writing rank, between two tensors, leaves the version before, on all ranks."""
    from hybridopt.saving import ranks

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    step(model)
    calls, gather = [], ranks._Ranks._gathered

    def fails(self, x):
        calls.append(x)
        if len(calls) > 2:
            raise OSError("the disk is full")
        return gather(self, x)

    with (
        patch.object(ranks._Ranks, "_gathered", fails),
        pytest.raises((HybridOptError, OSError), match="disk is full"),
    ):
        model.hybrid.save_pretrained(folder)
    assert bool(calls) == (rank == 0)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def checked(folder):
    rank = distributed.get_rank()
    checks(rank, folder)
    scenes(rank, folder)
    streams(folder)


@pytest.fixture(scope="module")
def results():
    with tempfile.TemporaryDirectory() as folder, closing(Ranks(RANKS)) as ranks:
        ranks.run(checked, Path(folder))
        yield Path(folder)


@pytest.mark.parametrize("name", SCENES)
def test_what_is_saved_is_what_was_trained(name, results):
    lora, before, half = SCENES[name]
    kept = torch.load(results / f"{name}.pt")
    again = hybridopt.from_pretrained(tiny_llama(), results / name)
    found = dict(again.named_parameters())
    assert kept.keys() == found.keys()
    assert all(torch.equal(p, found[n]) for n, p in kept.items())
    alone = made(lora, before, half, shards=False)
    step(alone)
    assert all(torch.equal(p, found[n]) for n, p in alone.named_parameters())
    assert any(not torch.equal(p, q) for p, q in zip(found.values(), tiny_llama().parameters(), strict=False))


def test_one_process_saves_by_itself(tmp_path):
    model = made(True, False, False, shards=False)
    step(model)
    model.hybrid.save_pretrained(tmp_path)
    assert torch.equal(answers(hybridopt.from_pretrained(tiny_llama(), tmp_path)), answers(model))
