"""Rows that no checkpoint has, as of new tokens, are saved, and come back on a base that was resized anew."""

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import hybridopt
from hybridopt import HybridOptError
from hybridopt.core.registry import make
from hybridopt.model.loading.missing_tensors import unstored
from support.models import VOCAB, batch, tiny_bert, tiny_gpt2, tiny_llama, tiny_moe
from support.saved import DELTA, refused, train

TOKENS = VOCAB + 8
QUERY = ["q_proj", "v_proj"]
KINDS = {
    "frozen": {},
    "in modules_to_save": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "one in modules_to_save": {"modules_to_save": ["embed_tokens"]},
    "the other in modules_to_save": {"modules_to_save": ["lm_head"]},
    "LoRA on both": {"target_modules": [*QUERY, "embed_tokens", "lm_head"]},
    "LoRA on one": {"target_modules": [*QUERY, "embed_tokens"]},
}
PEFT_LOSES = ("LoRA on one",)  # PEFT saves the embeddings that are targeted, not the other


def folder_of(model, folder):
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def checkpoint(request, tmp_path_factory):
    return folder_of(tiny_llama(tie=request.param), tmp_path_factory.mktemp("base"))


def resized(folder, seed, tokens=TOKENS):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.resize_token_embeddings(tokens, mean_resizing=False)
    return model


@torch.no_grad()
def logits(model):
    rows = model.get_input_embeddings().weight.shape[0]
    return model.eval()(input_ids=torch.arange(rows).view(4, -1)).logits


def same(one, other):
    return torch.equal(logits(one), logits(other))


@pytest.mark.parametrize("quantization", [None, "nf4", "int8"])
@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_come_back_and_peft_reads_them(kind, quantization, checkpoint, tmp_path):
    config = LoraConfig(**{"r": 4, "target_modules": QUERY, **KINDS[kind]})
    if quantization and "LoRA" in kind:
        pytest.skip("the same tensors: embeddings stay as they are")
    model = hybridopt.wrap(resized(checkpoint, 1), peft_config=config, quantization=quantization)
    train(model, 2)
    model.hybrid.save_pretrained(tmp_path / "first")
    again = hybridopt.from_pretrained(resized(checkpoint, 2), tmp_path / "first")
    assert same(again, model)
    again.hybrid.save_pretrained(tmp_path / "second")
    assert same(hybridopt.from_pretrained(resized(checkpoint, 3), tmp_path / "second"), model)
    if quantization is None and kind not in PEFT_LOSES:
        assert same(PeftModel.from_pretrained(resized(checkpoint, 4), tmp_path / "first"), model)


@pytest.mark.parametrize("frozen", [False, True])
def test_training_without_adapters_saves_them(frozen, checkpoint, tmp_path):
    base = resized(checkpoint, 1)
    if frozen:
        base.get_input_embeddings().requires_grad_(False)
    model = hybridopt.wrap(base)
    train(model, 2)
    model.hybrid.save_pretrained(tmp_path)
    assert same(hybridopt.from_pretrained(resized(checkpoint, 2), tmp_path), model)


def test_scales_alone_are_trained_and_embeddings_saved(checkpoint, tmp_path):
    model = hybridopt.wrap(resized(checkpoint, 1), quantization="nf4", policy="qzo")
    optimizer = model.hybrid.optimizer()
    optimizer.step(lambda: model(**batch(model)).loss)
    model.hybrid.save_pretrained(tmp_path)
    assert same(hybridopt.from_pretrained(resized(checkpoint, 2), tmp_path), model)


def test_what_is_loaded_and_trained_on_keeps_them(checkpoint, tmp_path):
    config = LoraConfig(r=4, target_modules=QUERY)
    model = hybridopt.wrap(resized(checkpoint, 1), peft_config=config)
    train(model, 1)
    model.hybrid.save_pretrained(tmp_path)
    for seed in (2, 3):
        model = hybridopt.from_pretrained(resized(checkpoint, seed), tmp_path)
        train(model, 1)
        model.hybrid.save_pretrained(tmp_path)
    merged = hybridopt.wrap(model.merge_and_unload(), peft_config=config)
    train(merged, 1)
    merged.hybrid.save_pretrained(tmp_path)
    assert same(hybridopt.from_pretrained(resized(checkpoint, 4), tmp_path), merged)


def test_a_base_that_was_not_resized_is_told_so(checkpoint, tmp_path):
    model = hybridopt.wrap(resized(checkpoint, 1), peft_config=LoraConfig(r=4, target_modules=QUERY))
    model.hybrid.save_pretrained(tmp_path)
    cure = (
        rf"'model.embed_tokens.weight' has {VOCAB} rows.*{TOKENS}.*resize_token_embeddings\({TOKENS}\).*in the folder"
    )
    refused(AutoModelForCausalLM.from_pretrained(checkpoint), tmp_path, cure)
    refused(resized(checkpoint, 1, TOKENS + 8), tmp_path, rf"resize_token_embeddings\({TOKENS}\)")
    plain = hybridopt.wrap(tiny_llama(), peft_config=LoraConfig(r=4, target_modules=QUERY))
    plain.hybrid.save_pretrained(tmp_path)
    base = resized(checkpoint, 1)
    if not base.config.tie_word_embeddings:
        refused(base, tmp_path, rf"resize_token_embeddings\({VOCAB}\).*or load the checkpoint that has as many")


def test_a_model_that_is_resized_between_two_wraps_is_saved_whole(tmp_path):
    def made(seed):
        model = tiny_gpt2()
        torch.manual_seed(seed)
        model.resize_token_embeddings(TOKENS, mean_resizing=False)
        return model

    model = hybridopt.wrap(tiny_gpt2())
    train(model, 1)
    model.hybrid.unwrap().resize_token_embeddings(TOKENS)
    model = hybridopt.wrap(model, peft_config=LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))
    train(model, 1)
    model.hybrid.save_pretrained(tmp_path)
    assert same(hybridopt.from_pretrained(made(5), tmp_path), model)


def test_an_output_layer_that_the_checkpoint_has_not_is_saved(checkpoint, tmp_path):
    def classifier(seed):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=3)
        model.config.pad_token_id = 0
        return model

    model = hybridopt.wrap(classifier(1), peft_config=LoraConfig(r=4, target_modules=QUERY))
    model.hybrid.save_pretrained(tmp_path)
    assert list(load_file(tmp_path / DELTA[0])) == ["base_model.model.score.weight"]
    assert same(hybridopt.from_pretrained(classifier(2), tmp_path), model)


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2, tiny_moe, tiny_bert])
def test_what_a_checkpoint_has_is_known(build, tmp_path):
    folder_of(build(), tmp_path / "base")
    model = type(build()).from_pretrained(tmp_path / "base")
    assert unstored(build()) == unstored(model) == set()
    quantized = type(build()).from_pretrained(tmp_path / "base")
    hybridopt.wrap(quantized, quantization="nf4")
    assert unstored(quantized) == set()
    if build is not tiny_bert:
        model.resize_token_embeddings(TOKENS)
        assert unstored(model) == {n for n, p in model.named_parameters() if p.shape[:1] == (TOKENS,)}


def test_a_checkpoint_without_safetensors_tells_by_its_configuration(tmp_path):
    folder = folder_of(tiny_llama(), tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    assert unstored(model) == set()
    model.resize_token_embeddings(TOKENS)
    assert unstored(model) == {"model.embed_tokens.weight", "lm_head.weight"}
    (folder / "config.json").write_text("{")
    assert unstored(model) == set()


def test_a_model_of_no_checkpoint_is_known_to_be_resized(tmp_path):
    model = tiny_llama()
    model.resize_token_embeddings(TOKENS)
    assert unstored(model) == {"model.embed_tokens.weight", "lm_head.weight"}


def test_a_file_with_embeddings_of_another_size_is_refused(checkpoint, tmp_path):
    model = hybridopt.wrap(resized(checkpoint, 1), peft_config=LoraConfig(r=4, target_modules=QUERY))
    model.hybrid.save_pretrained(tmp_path)
    held = load_file(tmp_path / "adapter_model.safetensors")
    assert {n for n in held if "lora" not in n} == {
        "base_model.model.lm_head.weight",
        "base_model.model.model.embed_tokens.weight",
    }
    with pytest.raises(HybridOptError, match=r"lm_head.weight has shape \[104, 64\]"):
        make("adapters", "peft").check_saved(tiny_llama(), tmp_path, ["default"])
