"""`save_pretrained(full=True)` writes model folders that transformers loads, and that come back as others do."""

import json

import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from transformers import AutoModelForCausalLM

import hybridopt
from hybridopt import HybridOptError
from hybridopt.saving.manifest import MANIFEST, seal
from support.adapted import based
from support.models import batch, tiny_bert, tiny_gpt2, tiny_llama, tiny_lstm, tiny_moe
from support.saved import logits, refused, train


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


def test_several_files_replace_one_and_the_other_way_round(tmp_path):
    model = trained(tiny_llama())
    for size in ("5GB", "50KB", "5GB"):
        model.hybrid.save_pretrained(tmp_path, full=True, max_shard_size=size)
        assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))
        assert (tmp_path / "model.safetensors").exists() is (size == "5GB")
        assert torch.equal(logits(hybridopt.from_pretrained(tiny_llama(), tmp_path)), logits(model))


def test_a_run_of_losses_alone_is_whole_too(tmp_path):
    model = hybridopt.wrap(tiny_llama(), policy="mezo")
    optimizer = model.hybrid.optimizer(lr=1e-3)
    optimizer.step(lambda: model(**batch(model)).loss)
    model.hybrid.save_pretrained(tmp_path, full=True)
    assert not list(tmp_path.glob("hybridopt_*.safetensors"))
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))


def test_what_was_tied_and_is_no_longer_is_written_apart(tmp_path):
    model = tiny_llama(tie=True)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 2)
    model = hybridopt.wrap(model)
    model.hybrid.save_pretrained(tmp_path, full=True)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(model)) and not again.config.tie_word_embeddings
    assert model.config.tie_word_embeddings


def test_what_cannot_be_a_whole_model_is_refused(tmp_path):
    adapted = hybridopt.wrap(tiny_llama(), peft_config=LoraConfig(r=2, target_modules=["q_proj"]))
    for model, text in (
        (adapted, "without adapters, and .*hybridopt merge"),
        (hybridopt.wrap(tiny_lstm()), "Lstm is no transformers model; save without full=True"),
    ):
        with pytest.raises(HybridOptError, match=text):
            model.hybrid.save_pretrained(tmp_path, full=True)
    for bad in ("many", 0, -1, True):
        with pytest.raises(HybridOptError, match=f"max_shard_size={bad!r}"):
            hybridopt.wrap(tiny_llama()).hybrid.save_pretrained(tmp_path, full=True, max_shard_size=bad)
    assert not list(tmp_path.iterdir())


def test_weights_of_others_are_neither_lost_nor_loaded(tmp_path):
    base = tiny_llama()
    base.save_pretrained(tmp_path, max_shard_size="50KB")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(HybridOptError, match="model-00001-of-.* was not saved here"):
        hybridopt.wrap(base).hybrid.save_pretrained(tmp_path, full=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_does_not_fit_is_refused(tmp_path):
    model = hybridopt.wrap(tiny_llama(), policy="qzo", quantization="nf4")
    model.hybrid.save_pretrained(tmp_path / "scales", full=True)
    refused(tiny_llama(), tmp_path / "scales", "policy QZO trains the scales.*quantization=")
    hybridopt.wrap(tiny_llama()).hybrid.save_pretrained(tmp_path / "whole", full=True)
    refused(tiny_llama(layers=1), tmp_path / "whole", "is only there")
    refused(tiny_llama().bfloat16(), tmp_path / "whole", "trained in float32")
    refused(based(tiny_llama(), "nf4"), tmp_path / "whole", "is quantized: nf4")
    path = tmp_path / "whole" / "hybridopt_config.json"
    config = json.loads(path.read_text())
    for spoilt, text in (
        ({"quantization": "nf4"}, "quantization='nf4' does not go with that"),
        ({"whole": 1}, "'whole'"),
        ({"name": 1}, "'name'"),
    ):
        path.write_text(json.dumps(config | spoilt))
        (tmp_path / "whole" / MANIFEST).unlink()
        seal(tmp_path / "whole")
        refused(tiny_llama(), tmp_path / "whole", text)
    path.write_text(json.dumps(config))
    (tmp_path / "whole" / "model.safetensors").rename(tmp_path / "x")
    (tmp_path / "whole" / MANIFEST).unlink()
    seal(tmp_path / "whole")
    refused(tiny_llama(), tmp_path / "whole", "has no model.safetensors")


def test_one_tensor_at_a_time_is_copied(tmp_path):
    """Peak of torch's allocations on the CPU while codes are written as floats."""
    from torch.profiler import ProfilerActivity, profile

    model = hybridopt.wrap(tiny_llama(hidden=128, layers=6), quantization="int8-trainable")
    model.hybrid.save_pretrained(tmp_path, full=True)  # what is imported and computed once
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        model.hybrid.save_pretrained(tmp_path, full=True)
    held = peak = 0
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    sizes = [p.numel() * 4 for p in model.parameters()]
    assert 0 < peak < 5 * max(sizes) < sum(sizes) / 2
