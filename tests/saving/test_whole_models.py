"""`save_pretrained(full=True)` writes model folders that transformers loads, and that come back as others do."""

import json

import pytest
import torch
from safetensors import safe_open

import hybridopt
from support.models import tiny_bert, tiny_gpt2, tiny_llama, tiny_moe
from support.saved import logits, train


def trained(model, **options):
    model = hybridopt.wrap(model, **options)
    train(model, 1)
    return model


MODELS = {
    "llama": tiny_llama,
    "tied": lambda: tiny_llama(tie=True),
    "bf16": lambda: tiny_llama()._from_config(tiny_llama().config, dtype=torch.bfloat16),
    "gpt2": tiny_gpt2,
    "bert": tiny_bert,
    "experts": tiny_moe,
}


@pytest.mark.parametrize("kind", MODELS)
def test_transformers_loads_the_trained_model(kind, tmp_path):
    model = trained(MODELS[kind]())
    model.hybrid.save_pretrained(tmp_path, full=True)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(model))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["dtype"] == str(model.dtype).removeprefix("torch.") and config["architectures"] == [
        type(model).__name__
    ]
    model.save_pretrained(tmp_path / "theirs")
    with (
        safe_open(tmp_path / "model.safetensors", "pt") as ours,
        safe_open(tmp_path / "theirs" / "model.safetensors", "pt") as theirs,
    ):
        assert set(ours.keys()) == set(theirs.keys())


@pytest.mark.parametrize("kind", MODELS)
def test_it_comes_back_onto_any_values(kind, tmp_path):
    model = trained(MODELS[kind](), policy="adamw")
    model.hybrid.save_pretrained(tmp_path / "first", full=True)
    base = MODELS[kind]()
    torch.nn.init.normal_(base.get_input_embeddings().weight)
    again = hybridopt.from_pretrained(base, tmp_path / "first")
    assert torch.equal(logits(again), logits(model)) and again.hybrid.policy == model.hybrid.policy
    again.hybrid.save_pretrained(tmp_path / "second", full=True)
    assert (tmp_path / "second" / "model.safetensors").read_bytes() == (
        tmp_path / "first" / "model.safetensors"
    ).read_bytes()
    train(again, 1)
    again.hybrid.save_pretrained(tmp_path / "third")
    last = hybridopt.from_pretrained(MODELS[kind](), tmp_path / "third")
    assert torch.equal(logits(last), logits(again))


@pytest.mark.parametrize("scheme", ["int8-trainable", "nf4", "int8"])
@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2, tiny_moe])
def test_codes_are_written_as_the_floats_they_stand_for(make, scheme, tmp_path):
    model = trained(make(), quantization=scheme)
    model.hybrid.save_pretrained(tmp_path, full=True)
    again = type(make()).from_pretrained(tmp_path)
    assert not hasattr(again.config, "quantization_config")
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=1e-2 if scheme == "int8" else 2e-6)
    assert (logits(again) - logits(make())).abs().max() > 1e-2
    assert torch.equal(logits(hybridopt.from_pretrained(make(), tmp_path, policy="adamw")), logits(again))
