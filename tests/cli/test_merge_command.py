"""`hybridopt merge` writes model folders that transformers loads and that answer as the trained model, or refuses."""

import copy
import gc
import json
import shutil

import pytest
import torch
from peft import IA3Config, LNTuningConfig, LoraConfig, PeftModel, ShiraConfig, VeraConfig
from peft.utils.integrations import dequantize_module_weight
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from typer.testing import CliRunner

import hybridopt
from hybridopt import HybridOptError
from hybridopt.cli.main import app
from hybridopt.model.adapters import bare
from hybridopt.saving.manifest import MANIFEST, seal
from hybridopt.saving.merging import shards
from hybridopt.saving.merging.merge import merge
from support.models import batch, tiny_bert, tiny_gpt2, tiny_llama, tiny_moe
from support.saved import logits, train

QUERY = {"r": 2, "target_modules": ["q_proj", "down_proj"]}
CLOSE = {"rtol": 0, "atol": 2e-6}


def write_base(model, folder):
    model.save_pretrained(folder / "base")
    return type(model).from_pretrained(folder / "base")


def trained(model, folder, config=None, steps=1, **options):
    model = hybridopt.wrap(model, peft_config=config, **options)
    train(model, steps)
    model.hybrid.save_pretrained(folder / "out")
    return model


def merged(folder, **options):
    return merge(folder / "out", folder / "merged", **{"base": folder / "base", "dtype": "float32"} | options)


def refused(text, folder, **options):
    """Nothing appears."""
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(HybridOptError, match=text):
        merged(folder, **options)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert "out" in options or not (folder / "merged").exists()


KINDS = {
    "lora": (tiny_llama, LoraConfig(**QUERY)),
    "dora": (tiny_llama, LoraConfig(**QUERY, use_dora=True)),
    "rslora": (tiny_llama, LoraConfig(**QUERY, use_rslora=True, lora_alpha=3)),
    "pissa": (tiny_llama, LoraConfig(**QUERY, init_lora_weights="pissa")),
    "head": (tiny_llama, LoraConfig(**QUERY, modules_to_save=["lm_head"])),
    "conv1d": (tiny_gpt2, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, bias="all")),
    "biases": (tiny_bert, LoraConfig(r=2, target_modules=["query"], bias="lora_only")),
    "experts": (tiny_moe, LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj"])),
    "ia3": (tiny_llama, IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])),
    "norms": (tiny_llama, LNTuningConfig(target_modules=["input_layernorm"])),
    "vera": (tiny_llama, VeraConfig(r=2, target_modules=["q_proj"])),
    "full": (tiny_llama, None),
    "full-experts": (tiny_moe, None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_folder_answers_as_the_trained_model(kind, tmp_path):
    make, config = KINDS[kind]
    model = trained(write_base(make(), tmp_path), tmp_path, copy.deepcopy(config))
    report = merged(tmp_path)
    again = type(make()).from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again), logits(model), **CLOSE)
    assert 0 < report.changed <= report.tensors
    assert not torch.equal(logits(again), logits(type(again).from_pretrained(tmp_path / "base")))
    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as new:
        with safe_open(tmp_path / "base" / "model.safetensors", "pt") as old:
            assert set(new.keys()) == set(old.keys())


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        ({"modules_to_save": ["lm_head"]}, False),
        ({"target_modules": ["embed_tokens", "q_proj"]}, False),
        ({"target_modules": ["lm_head", "q_proj"]}, False),
        ({"trainable_token_indices": [1, 3]}, True),
        ({}, True),
    ],
)
def test_tied_embeddings_part_only_where_training_parted_them(config, tied, tmp_path):
    model = trained(write_base(tiny_llama(tie=True), tmp_path), tmp_path, LoraConfig(**QUERY | config), steps=2)
    merged(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again), logits(model), **CLOSE)
    assert again.config.tie_word_embeddings is tied


def test_weights_that_were_quantized_are_merged_in_full_precision(tmp_path):
    model = trained(write_base(tiny_llama(), tmp_path), tmp_path, LoraConfig(**QUERY), quantization="nf4")
    merged(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    whole = PeftModel.from_pretrained(base, tmp_path / "out").merge_and_unload()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again), logits(whole), **CLOSE)
    assert (logits(again) - logits(model)).abs().max() > 1e-4


@pytest.mark.parametrize(("given", "dtype"), [("bf16", "bfloat16"), ("float16", "float16")])
def test_sums_are_rounded_once_to_the_dtype(given, dtype, tmp_path):
    model = trained(write_base(tiny_llama(), tmp_path), tmp_path, LoraConfig(**QUERY))
    merged(tmp_path, dtype=given)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    exact = model.merge_and_unload().state_dict()
    for name, x in again.state_dict().items():
        assert x.dtype == getattr(torch, dtype)
        torch.testing.assert_close(x, exact[name].to(x.dtype), rtol=0, atol=0, msg=name)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == dtype


def test_a_run_that_is_kept_as_scalars_is_replayed(tmp_path):
    model = hybridopt.wrap(write_base(tiny_llama(), tmp_path), policy="mezo")
    optimizer = model.hybrid.optimizer(lr=1e-3)
    for _ in range(2):
        optimizer.step(lambda: model(**batch(model)).loss)
    model.hybrid.save_pretrained(tmp_path / "out")
    assert merged(tmp_path).compared == len(model.state_dict())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert all(torch.equal(x, again.state_dict()[n]) for n, x in model.state_dict().items())


def test_added_tokens_and_their_embeddings(tmp_path):
    base = write_base(tiny_llama(), tmp_path)
    base.resize_token_embeddings(base.config.vocab_size + 3, mean_resizing=False)
    model = trained(base, tmp_path, LoraConfig(**QUERY))
    merged(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert again.config.vocab_size == base.config.vocab_size
    torch.testing.assert_close(logits(again), logits(model), **CLOSE)


def test_a_classifier_on_a_language_model(tmp_path):
    write_base(tiny_llama(pad_token_id=0), tmp_path)
    names = {0: "no", 1: "maybe", 2: "yes"}
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", id2label=names)
    model = hybridopt.wrap(base, peft_config=LoraConfig(**QUERY, task_type="SEQ_CLS"))
    tokens = torch.arange(1, 13).view(2, 6)
    model(input_ids=tokens, labels=torch.tensor([0, 2])).loss.backward()
    model.hybrid.optimizer(lr=1e-2).step()
    model.hybrid.save_pretrained(tmp_path / "out")
    assert merged(tmp_path).architecture == "LlamaForSequenceClassification"
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert again.config.id2label == names and again.config.label2id == {"no": 0, "maybe": 1, "yes": 2}
    torch.testing.assert_close(again(tokens).logits, model.eval()(tokens).logits, **CLOSE)


def test_only_adapters_that_are_switched_on_are_merged(tmp_path):
    model = trained(write_base(tiny_llama(), tmp_path), tmp_path, LoraConfig(**QUERY))
    model.add_adapter("second", LoraConfig(r=3, target_modules=["v_proj"]))
    model.set_adapter("second")
    train(model, 1)
    model.hybrid.save_pretrained(tmp_path / "out")
    assert merged(tmp_path).inactive == ("default",)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again), logits(model), **CLOSE)


def test_the_command_shards_copies_companions_and_finds_the_base(tmp_path):
    model = trained(write_base(tiny_llama(), tmp_path), tmp_path, LoraConfig(**QUERY))
    for folder, text in (("base", "old"), ("out", "new")):
        (tmp_path / folder / "chat_template.jinja").write_text(text)
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    (tmp_path / "base" / "modeling.py").write_text("raise SystemExit")
    for _ in range(2):  # the second one replaces the first
        command = ["merge", str(tmp_path / "out"), "-o", str(tmp_path / "merged"), "--max-shard-size", "100KB"]
        result = CliRunner().invoke(app, [*command, "--dtype", "float32"], catch_exceptions=False)
        assert result.exit_code == 0 and "LlamaForCausalLM" in result.output
    files = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"tokenizer.json", "model.safetensors.index.json", "generation_config.json"} < files
    assert "modeling.py" not in files and "adapter_config.json" not in files
    assert (tmp_path / "merged" / "chat_template.jinja").read_text() == "new"
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again), logits(model), **CLOSE)
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2


def test_a_merged_folder_is_a_base_like_any_other(tmp_path):
    trained(write_base(tiny_llama(), tmp_path), tmp_path, LoraConfig(**QUERY))
    merged(tmp_path)
    (tmp_path / "next").mkdir()
    shutil.copytree(tmp_path / "merged", tmp_path / "next" / "base")
    model = trained(AutoModelForCausalLM.from_pretrained(tmp_path / "next" / "base"), tmp_path / "next")
    merged(tmp_path / "next")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "next" / "merged")
    assert torch.equal(logits(again), logits(model))


def test_places_and_bases_that_do_not_do(tmp_path):
    trained(write_base(tiny_llama(), tmp_path), tmp_path, LoraConfig(**QUERY))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    place = {"out": tmp_path / "mine", "folder": tmp_path / "out", "base": tmp_path / "base"}
    for out, text in (("mine", "notes.txt, and no earlier"), ("out", "lies in"), ("base/x", "lies in")):
        with pytest.raises(HybridOptError, match=text):
            merge(**place | {"out": tmp_path / out})
    refused("dtype='int8'", tmp_path, dtype="int8")
    refused("no such folder", tmp_path, base=tmp_path / "nowhere")
    tiny_llama(seed=1).save_pretrained(tmp_path / "foreign")
    refused("not the base model this was trained on.*has other values", tmp_path, base=tmp_path / "foreign")
    tiny_llama(hidden=32).save_pretrained(tmp_path / "small")
    refused("not the base model this was trained on.*elements", tmp_path, base=tmp_path / "small")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    refused("quantized already.*full precision", tmp_path)


def test_a_base_that_nobody_names(tmp_path):
    trained(write_base(tiny_llama(), tmp_path), tmp_path)
    refused("does not say which base.*--base", tmp_path, base=None)
    trained(tiny_llama(), tmp_path / "lora", LoraConfig(**QUERY))
    path = tmp_path / "lora" / "out"
    model = hybridopt.wrap(tiny_llama(), peft_config=LoraConfig(**QUERY, base_model_name_or_path="some/model"))
    model.hybrid.save_pretrained(path)
    config = json.loads((path / "adapter_config.json").read_text())
    if config["base_model_name_or_path"] == "some/model":
        refused("'some/model'.*--base", tmp_path / "lora", base=None)


def weights_as(model, folder):
    """Merged weights are those that the layers of bitsandbytes stand for by PEFT's account; returns their number."""
    merged(folder)
    again = type(bare(model)).from_pretrained(folder / "merged").state_dict()
    base = type(bare(model)).from_pretrained(folder / "base").state_dict()
    changed = [name for name, x in again.items() if not torch.equal(x, base[name])]
    for name in changed:
        layer = bare(model).get_submodule(name.removesuffix(".weight"))
        expected = dequantize_module_weight(layer).float()
        expected = expected if again[name].shape == expected.shape and "c_" not in name else expected.t()
        torch.testing.assert_close(again[name], expected, rtol=1e-3, atol=1e-6, msg=name)
    return len(changed)


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2, tiny_moe])
def test_weights_that_were_trained_as_codes(make, tmp_path):
    model = trained(write_base(make(), tmp_path), tmp_path, steps=3, quantization="int8-trainable")
    merged(tmp_path)
    again = type(model).from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again), logits(model), **CLOSE)
    assert (logits(again) - logits(type(model).from_pretrained(tmp_path / "base"))).abs().max() > 0.02


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("scheme", ["nf4", "fp4", "int8"])
def test_codes_that_were_changed_are_what_was_trained_on(scheme, make, tmp_path):
    target = "c_attn" if make is tiny_gpt2 else "q_proj"
    config = LoraConfig(r=2, target_modules=[target], init_lora_weights=False)
    first = trained(write_base(make(), tmp_path), tmp_path, config, quantization=scheme)
    base = first.merge_and_unload()
    first.hybrid.save_pretrained(tmp_path / "out")
    assert weights_as(base, tmp_path) == 2
    config = LoraConfig(r=2, target_modules=["mlp.c_proj" if make is tiny_gpt2 else "k_proj"])
    hybridopt.wrap(base, peft_config=config).hybrid.save_pretrained(tmp_path / "out")
    assert weights_as(base, tmp_path) == 2


def test_experts_whose_codes_were_changed(tmp_path):
    model = hybridopt.wrap(write_base(tiny_moe(), tmp_path), peft_config=LoraConfig(**QUERY), quantization="nf4")
    experts = bare(model).model.layers[1].mlp.experts
    experts.load_state_dict({"gate_up_proj": torch.randn(experts.gate_up_proj.shape)}, strict=False)
    model.hybrid.save_pretrained(tmp_path / "out")
    merged(tmp_path)
    again = type(bare(model)).from_pretrained(tmp_path / "merged")
    assert torch.equal(again.model.layers[1].mlp.experts.gate_up_proj, experts.gate_up_proj.dequantize())


@pytest.mark.parametrize("scheme", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_scales_that_were_trained(make, scheme, tmp_path):
    model = hybridopt.wrap(write_base(make(), tmp_path), policy="qzo", quantization=scheme)
    optimizer = model.hybrid.optimizer(lr=1e-2)
    for _ in range(3):
        optimizer.step(lambda: model(**batch(model)).loss)
    model.hybrid.save_pretrained(tmp_path / "out")
    assert weights_as(model, tmp_path) == len(model.hybrid.quantized)


def test_parts_that_are_missing_or_misshapen(tmp_path):
    trained(write_base(tiny_llama(), tmp_path), tmp_path, quantization="int8-trainable")
    path = tmp_path / "out" / "hybridopt_delta.safetensors"
    held = load_file(path)
    scale = next(name for name in held if name.endswith("q_proj.weight.scale"))
    for damaged, text in (
        ({n: x for n, x in held.items() if n != scale}, "'scale' of .*q_proj.* is missing"),
        (held | {scale: held[scale][1:].clone()}, r"'scale' of .*q_proj.* is torch.float32 \[15\]"),
        (held | {f"{scale}s": held[scale].clone()}, "nothing of that name"),
        (held | {"model.none.weight.codes": held[scale].clone()}, "part of a weight that the base has not"),
    ):
        save_file(damaged, path)
        (tmp_path / "out" / MANIFEST).unlink()
        seal(tmp_path / "out")
        refused(text, tmp_path)


def test_a_whole_model_needs_no_merging(tmp_path):
    model = hybridopt.wrap(write_base(tiny_llama(), tmp_path))
    model.hybrid.save_pretrained(tmp_path / "out", full=True)
    refused("holds a whole model, and there is nothing to merge.*vLLM", tmp_path)


def test_the_result_may_lie_beneath_what_was_trained(tmp_path):
    model = trained(write_base(tiny_llama(), tmp_path), tmp_path, LoraConfig(**QUERY))
    merge(tmp_path / "out", tmp_path / "out" / "merged", dtype="float32")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "merged")
    torch.testing.assert_close(logits(again), logits(model), **CLOSE)
    assert torch.equal(logits(hybridopt.from_pretrained(tiny_llama(), tmp_path / "out")), logits(model))


def test_what_cannot_be_merged_is_refused(tmp_path):
    write_base(tiny_llama(), tmp_path)
    trained(tiny_llama(), tmp_path, ShiraConfig(r=2, target_modules=["k_proj"]))
    refused("ShiraConfig.*merge_and_unload", tmp_path)


def test_overflow_is_no_silent_infinity(tmp_path):
    base = tiny_llama()
    nn.init.constant_(base.model.norm.weight, 1e6)
    trained(write_base(base, tmp_path), tmp_path, LoraConfig(**QUERY))
    refused("norm.weight' is infinite or NaN in float16; take --dtype bfloat16", tmp_path, dtype="float16")


def test_a_failure_in_the_middle_leaves_nothing_or_the_earlier_result(tmp_path, monkeypatch):
    trained(write_base(tiny_llama(), tmp_path), tmp_path, LoraConfig(**QUERY))

    def full(*_):
        raise HybridOptError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(shards.tensors, "save", full)
        refused("disk is full", tmp_path)
    merged(tmp_path)
    before = (tmp_path / "merged" / "model.safetensors").read_bytes()
    monkeypatch.setattr(shards.tensors, "save", full)
    with pytest.raises(HybridOptError, match="disk is full"):
        merged(tmp_path)
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == before


def test_one_layer_at_a_time_is_held(tmp_path):
    """Peak of torch's allocations on the CPU: what merging, or the checksum of, one layer takes, and the adapter."""
    from torch.profiler import ProfilerActivity, profile

    base = tiny_llama(hidden=128, layers=6)
    trained(write_base(base, tmp_path), tmp_path, LoraConfig(**QUERY))
    merged(tmp_path)  # what is imported and computed once
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        merged(tmp_path)
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    mapped = {path.stat().st_size for path in tmp_path.rglob("*.safetensors")}  # from disk: no memory
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += 0 if abs(event.nbytes()) in mapped else event.nbytes()
        peak = max(peak, held)
    sizes = [p.nbytes for p in base.parameters()]
    adapter = (tmp_path / "out" / "adapter_model.safetensors").stat().st_size
    assert 0 < peak < 5 * max(sizes) + adapter < sum(sizes) / 2


def test_several_adapters_that_are_on_and_such_as_lie_in_the_model_itself(tmp_path):
    base = write_base(tiny_llama(), tmp_path)
    base.add_adapter(LoraConfig(**QUERY, init_lora_weights=False), "one")
    base.add_adapter(LoraConfig(r=3, target_modules=["q_proj", "v_proj"], init_lora_weights=False), "two")
    base.set_adapter(["one", "two"])
    model = hybridopt.wrap(base)
    model.hybrid.save_pretrained(tmp_path / "out")
    report = merged(tmp_path)
    assert report.inactive == () and report.changed == 6
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again), logits(model), **CLOSE)
