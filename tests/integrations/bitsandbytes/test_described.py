"""What transformers writes of a model that `wrap` has quantized, transformers loads again, to the last bit."""

import copy
import json

import bitsandbytes
import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import hybridopt
from hybridopt import HybridOptError
from support.models import batch, tiny_bert, tiny_gpt2, tiny_llama, tiny_moe
from support.saved import bits, different, equal, logits, train

SCHEMES = ("nf4", "fp4", "int8")
QUERY = {"r": 2, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(autouse=True)
def the_same_kernels(monkeypatch):
    """CPUs with AVX512-BF16 evaluate models of transformers in bfloat16, and `wrap` switches that off in its own."""
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: False)


def llama(**options):
    return tiny_llama(layers=1, **options)


def t5():
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(vocab_size=96, d_model=64, d_kv=16, d_ff=128, num_layers=1, num_heads=4)
    )


def same(one, other):
    """Are the models the same, tied parameters once?"""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and not different(first, second)


@pytest.mark.parametrize("build", [llama, lambda: llama(tie=True), tiny_gpt2, tiny_bert, t5])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_loads_again(scheme, build, tmp_path):
    model = hybridopt.wrap(build(), policy="adamw", quantization=scheme)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert same(again, model)
    kinds = {n: type(m) for n, m in model.named_modules()}
    assert kinds == {n: type(m) for n, m in again.named_modules()}


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_loads_again_after_training(scheme, adapters, tmp_path):
    model = hybridopt.wrap(llama(), quantization=scheme, peft_config=LoraConfig(**QUERY) if adapters else None)
    train(model, 1)
    model = model.merge_and_unload() if adapters else model
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_body_alone_loads_again(scheme, tmp_path):
    model = hybridopt.wrap(llama(), quantization=scheme)
    model.model.save_pretrained(tmp_path)
    assert same(type(model.model).from_pretrained(tmp_path), model.model)


def test_other_models_of_the_same_configuration_stay_as_they_are(tmp_path):
    config = llama().config
    first, second = LlamaForCausalLM(config), LlamaForCausalLM(config)
    hybridopt.wrap(first, quantization="nf4")
    assert second.config is config and not hasattr(config, "quantization_config")
    second.save_pretrained(tmp_path)
    assert same(LlamaForCausalLM.from_pretrained(tmp_path), second)


def test_modules_that_share_a_configuration_go_on_sharing_it():
    model = hybridopt.wrap(llama(), quantization="nf4", peft_config=LoraConfig(**QUERY))
    inner = model.get_base_model()
    sharing = [m.config for m in inner.modules() if "config" in vars(m)]
    assert len(sharing) > 2 and all(config is inner.config for config in sharing) and model.config is inner.config
    twin = copy.deepcopy(model)
    assert twin.config is twin.get_base_model().config is twin.get_base_model().model.config is not model.config


def test_configurations_within_another_go_on_lying_there(tmp_path):
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    text, vision = LlamaConfig(vocab_size=96, **sizes), CLIPVisionConfig(image_size=16, patch_size=4, **sizes)
    model = LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision, image_token_index=95))
    hybridopt.wrap(model, quantization="int8")
    assert model.model.language_model.config is model.config.text_config
    model.save_pretrained(tmp_path / "whole")
    assert same(LlavaForConditionalGeneration.from_pretrained(tmp_path / "whole"), model)
    body = model.model.language_model
    body.save_pretrained(tmp_path / "body")
    assert same(type(body).from_pretrained(tmp_path / "body"), body)


def test_a_layer_left_out_does_not_leave_out_those_whose_names_end_alike(tmp_path):
    config = llama().config

    class Model(LlamaForCausalLM):
        def __init__(self, config):
            super().__init__(config)
            self.proj = nn.Linear(64, 4)  # the last linear layer: an output layer that is not quantized
            self.model.layers[0].mlp.proj = nn.Linear(64, 64)

        def get_output_embeddings(self):
            return self.proj

    model = hybridopt.wrap(Model(config), quantization="nf4")
    assert type(model.proj) is nn.Linear and type(model.model.layers[0].mlp.proj) is not nn.Linear
    model.save_pretrained(tmp_path)
    assert same(Model.from_pretrained(tmp_path), model)


def test_what_config_json_cannot_say_is_refused_at_save(tmp_path):
    class Model(LlamaForCausalLM):
        _keep_in_fp32_modules = ["proj"]  # transformers takes it for the end of a name, too

    model = hybridopt.wrap(Model(llama().config), quantization="nf4")
    with pytest.raises(
        HybridOptError, match=r"q_proj' is quantized, and transformers would load it in full precision"
    ):
        model.save_pretrained(tmp_path)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_models_from_load_are_described(scheme, tmp_path):
    llama().save_pretrained(tmp_path / "plain")
    model = hybridopt.load(tmp_path / "plain", quantization=scheme)
    model.save_pretrained(tmp_path / "quantized")
    assert same(AutoModelForCausalLM.from_pretrained(tmp_path / "quantized"), model)
    with pytest.raises(HybridOptError, match="quantized already"):
        hybridopt.load(tmp_path / "quantized", quantization=scheme)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_transformers_loads_trains_on_as_the_model_itself(scheme, tmp_path):
    model = hybridopt.wrap(llama(), quantization=scheme).hybrid.unwrap()
    model.save_pretrained(tmp_path)
    results = []
    for base in (model, AutoModelForCausalLM.from_pretrained(tmp_path)):
        torch.manual_seed(0)
        wrapped = hybridopt.wrap(base, peft_config=LoraConfig(**QUERY))
        train(wrapped, 1)
        results.append(bits(wrapped))
    assert equal(*results)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_experts_that_transformers_could_not_read_are_refused_at_save(scheme, tmp_path):
    model = hybridopt.wrap(tiny_moe(layers=1), policy="adamw", quantization=scheme)
    with pytest.raises(HybridOptError, match=r"experts.gate_up_proj' is quantized.*model.hybrid.save_pretrained"):
        model.save_pretrained(tmp_path)


# ---- codes that are trained


def test_trained_experts_are_saved_as_floats(tmp_path):
    model = hybridopt.wrap(tiny_moe(layers=1), quantization="int8-trainable")
    assert any("experts" in name for name in model.hybrid.quantized)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_trained_codes_are_saved_as_floats_and_come_back_as_codes(dtype, tmp_path):
    model = hybridopt.wrap(llama().to(dtype), policy="sgd", quantization="int8-trainable")
    train(model, 2, lr=1e-1)
    model.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    dense = copy.deepcopy(model).hybrid.dequantize()
    assert not different(again.state_dict(), dense.state_dict())
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "model.safetensors")
    assert not any(name.endswith(".codes") for name in saved)
    fresh = hybridopt.wrap(llama().to(dtype), quantization="int8-trainable")
    fresh.load_state_dict(saved)
    assert not different(bits(fresh), bits(model))


def test_trained_codes_that_floats_do_not_lead_back_to_are_saved_beside_them(tmp_path):
    model = hybridopt.wrap(llama().half(), quantization="int8-trainable")
    weight = model.model.layers[0].self_attn.q_proj.weight
    weight.scale.mul_(1e-6)  # the floats are too small to be told apart
    model.save_pretrained(tmp_path)
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "model.safetensors")
    assert [n for n in saved if n.endswith(".codes")] == ["model.layers.0.self_attn.q_proj.weight.codes"]
    fresh = hybridopt.wrap(llama().half(), quantization="int8-trainable")
    fresh.load_state_dict(saved)
    assert not different(bits(fresh), bits(model))


def test_once_dequantized_a_model_is_saved_as_ever(tmp_path):
    model = hybridopt.wrap(llama(), quantization="int8-trainable")
    copied = copy.deepcopy(model)
    model.hybrid.dequantize()
    assert "save_pretrained" not in vars(model)
    copied.save_pretrained(tmp_path / "copy")
    model.save_pretrained(tmp_path / "dense")
    first, second = (AutoModelForCausalLM.from_pretrained(tmp_path / n) for n in ("copy", "dense"))
    assert same(first, second)


def test_a_state_dict_that_is_given_is_saved_as_floats_too(tmp_path):
    model = hybridopt.wrap(llama(), quantization="int8-trainable")
    model.save_pretrained(tmp_path, True, model.state_dict())
    inputs = batch(model)
    with torch.no_grad():
        assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(**inputs).logits, model(**inputs).logits)
