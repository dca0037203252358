"""A saved folder goes onto the base it was trained on, and no other."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

import hybridopt
from hybridopt import HybridOptError
from support import quantization
from support.models import tiny_bert, tiny_gpt2, tiny_llama
from support.saved import ALL_LINEAR, SCENES, logits, refused, train


def quantized(scheme):
    model = tiny_llama()
    quantization.quantize_(model, scheme, quantization.check(model, scheme, ["lm_head"]))
    return model


BASES = {
    "another class": (tiny_bert, "not the base model"),
    "other names": (tiny_gpt2, "not the base model"),
    "more layers": (lambda: tiny_llama(layers=3), "not the base model"),
    "other sizes": (lambda: tiny_llama(hidden=32), "not the base model"),
    "other dtype": (lambda: tiny_llama().to(torch.bfloat16), "bfloat16.*float32.*dtype=torch.float32"),
    "wrapped": (lambda: hybridopt.wrap(tiny_llama()), "base model itself"),
    "with adapters": (lambda: get_peft_model(tiny_llama(), LoraConfig(**ALL_LINEAR)), "base model itself"),
    "with adapters inside": (
        lambda: get_peft_model(tiny_llama(), LoraConfig(**ALL_LINEAR)).get_base_model(),
        "base model itself",
    ),
    "on meta": (lambda: tiny_llama().to("meta"), "on meta"),
}


@pytest.mark.parametrize("scene", ["nf4-norms", "full", "lora"])
@pytest.mark.parametrize("base", BASES)
def test_other_bases(scene, base, tmp_path):
    model = SCENES[scene].wrapped()
    train(model, 1)
    model.hybrid.save_pretrained(tmp_path)
    make, text = BASES[base]
    if base == "on meta":
        with pytest.raises(HybridOptError, match=text):
            hybridopt.from_pretrained(make(), tmp_path)
    else:
        refused(make(), tmp_path, text)


@pytest.mark.parametrize("scene", ["full", "lora", "nf4", "fp4", "int8"])
@pytest.mark.parametrize("scheme", ["nf4", "fp4", "int8"])
def test_a_base_quantized_otherwise(scene, scheme, tmp_path):
    model = SCENES[scene].wrapped()
    model.hybrid.save_pretrained(tmp_path)
    if scene == scheme:
        assert torch.equal(logits(hybridopt.from_pretrained(quantized(scheme), tmp_path)), logits(model))
    else:
        refused(quantized(scheme), tmp_path, f"quantized: {scheme}.*full precision")


def test_a_base_not_quantized_as_it_was_given(tmp_path):
    model = hybridopt.wrap(quantized("nf4"), peft_config=LoraConfig(**ALL_LINEAR))
    model.hybrid.save_pretrained(tmp_path)
    refused(tiny_llama(), tmp_path, "quantized: None.*quantized with nf4")
    refused(quantized("fp4"), tmp_path, "quantized: fp4.*quantized with nf4")


def test_merged_adapters_are_not_saved(tmp_path):
    model = SCENES["lora"].wrapped()
    train(model)
    expected = logits(model)
    model.hybrid.save_pretrained(tmp_path)
    model.merge_adapter()
    with pytest.raises(HybridOptError, match=r"merged.*unmerge_adapter\(\)"):
        model.hybrid.save_pretrained(tmp_path)
    assert torch.equal(logits(hybridopt.from_pretrained(tiny_llama(), tmp_path)), expected)
