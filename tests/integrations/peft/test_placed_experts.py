"""Adapters on parameters, such as those of routers and experts, of layers that rest on disk."""

import pytest
import torch
from peft import LoraConfig

import hybridopt
from support.models import tiny_moe

BATCH = {"input_ids": torch.arange(16).reshape(2, 8), "labels": torch.arange(16).reshape(2, 8)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small mixture of experts."""
    path = tmp_path_factory.mktemp("experts")
    tiny_moe(layers=3).to(torch.bfloat16).save_pretrained(path / "base")
    return path


def trained(folder, placement):
    model = hybridopt.load(folder / "base", placement=placement)
    torch.manual_seed(0)
    lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    model = hybridopt.wrap(model, policy="adamw", peft_config=lora)
    optimizer = model.hybrid.optimizer(lr=1e-3)
    losses = []
    for _ in range(2):
        loss = model(**BATCH).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def test_they_are_trained_as_of_a_model_that_is_not_placed(folder):
    losses, adapters = trained(folder, None)
    assert sum("mlp" in name for name in adapters) >= 4
    placed, found = trained(folder, hybridopt.Placement("disk", cache=folder / "cache", slots=2))
    assert placed == losses and all(torch.equal(found[name], x) for name, x in adapters.items())
