"""A base is refused wherever its own values are still in use, and only there."""

import pytest
import torch
from peft import LoraConfig
from torch import nn

import hybridopt
from hybridopt import HybridOptError
from hybridopt.model.adapted_tensors import replaced
from support.models import tiny_bert, tiny_llama, tiny_resnet
from support.saved import logits, refused, train

QUERY = ["q_proj", "v_proj"]


def lora(**options):
    return LoraConfig(**{"r": 4, "target_modules": QUERY, **options})


def other(name, tie=False):
    """Return a base of which one weight differs."""
    model = tiny_llama(tie=tie)
    with torch.no_grad():
        model.get_submodule(name).weight.add_(0.1)
    return model


def saved(model, folder):
    train(model, 1)
    model.hybrid.save_pretrained(folder)
    return logits(model)


@pytest.mark.parametrize("kept", [["embed_tokens"], ["lm_head"]])
def test_a_tied_original_is_in_use(kept, tmp_path):
    model = hybridopt.wrap(tiny_llama(tie=True), peft_config=lora(modules_to_save=kept))
    expected = saved(model, tmp_path)
    assert torch.equal(logits(hybridopt.from_pretrained(tiny_llama(tie=True), tmp_path)), expected)
    refused(other("lm_head", tie=True), tmp_path, "embed_tokens.weight' has other values")


@pytest.mark.parametrize("options", [{}, {"ensure_weight_tying": True}])
def test_both_sides_of_a_tie_may_be_replaced(options, tmp_path):
    kept = ["embed_tokens"] if options else ["embed_tokens", "lm_head"]
    model = hybridopt.wrap(tiny_llama(tie=True), peft_config=lora(modules_to_save=kept, **options))
    expected = saved(model, tmp_path)
    assert replaced(model) == {"model.embed_tokens.weight"}
    assert torch.equal(logits(hybridopt.from_pretrained(other("lm_head", tie=True), tmp_path)), expected)


@pytest.mark.parametrize("active", ["default", "b"])
def test_an_adapter_without_the_copy_uses_the_original(active, tmp_path):
    model = hybridopt.wrap(tiny_llama(), peft_config=lora(modules_to_save=["lm_head"]))
    model.add_adapter("b", lora())
    model.set_adapter(active)
    expected = saved(model, tmp_path)
    assert torch.equal(logits(hybridopt.from_pretrained(tiny_llama(), tmp_path)), expected)
    refused(other("lm_head"), tmp_path, "lm_head.weight' has other values")
    model.delete_adapter("b")
    model.set_adapter("default")  # PEFT leaves copies switched off where the adapter that goes had none
    expected = saved(model, tmp_path)
    assert torch.equal(logits(hybridopt.from_pretrained(other("lm_head"), tmp_path)), expected)


def test_every_adapter_may_have_a_copy(tmp_path):
    model = hybridopt.wrap(tiny_llama(), peft_config=lora(modules_to_save=["lm_head"]))
    model.add_adapter("b", lora(modules_to_save=["lm_head"]))
    model.set_adapter("b")
    expected = saved(model, tmp_path)
    again = hybridopt.from_pretrained(other("lm_head"), tmp_path)
    assert torch.equal(logits(again), expected)
    model.set_adapter("default")
    again.set_adapter("default")
    assert torch.equal(logits(again), logits(model))


def test_an_adapter_that_is_switched_off_leaves_the_original_in_use(tmp_path):
    model = hybridopt.wrap(tiny_llama(), peft_config=lora(modules_to_save=["lm_head"]))
    train(model, 1)
    with model.disable_adapter():
        assert replaced(model) == set()
        with pytest.raises(HybridOptError, match="switched off, and would come back switched on"):
            model.hybrid.save_pretrained(tmp_path)
    model.hybrid.save_pretrained(tmp_path)
    assert torch.equal(logits(hybridopt.from_pretrained(other("lm_head"), tmp_path)), logits(model))
    model.delete_adapter("default")
    assert replaced(model) == set()


def test_weights_that_adapters_only_add_to_are_in_use(tmp_path):
    model = hybridopt.wrap(tiny_llama(), peft_config=lora(modules_to_save=["lm_head"]))
    saved(model, tmp_path)
    for name in ("model.embed_tokens", "model.layers.0.self_attn.q_proj", "model.norm"):
        refused(other(name), tmp_path, f"{name}.weight' has other values")


def test_a_whole_classifier_is_replaced(tmp_path):
    config = LoraConfig(r=4, target_modules=["query"], task_type="SEQ_CLS")
    model = hybridopt.wrap(tiny_bert(), peft_config=config)
    expected = saved(model, tmp_path)
    assert replaced(model) == {"classifier.weight", "classifier.bias"}
    base = tiny_bert()
    nn.init.normal_(base.classifier.weight)
    assert torch.equal(logits(hybridopt.from_pretrained(base, tmp_path)), expected)


def test_copies_with_buffers_are_no_part_of_the_base(tmp_path):
    config = LoraConfig(r=2, target_modules=["conv1"], modules_to_save=["norm"])
    model = hybridopt.wrap(tiny_resnet(), peft_config=config)
    expected = saved(model, tmp_path)
    assert {"norm.weight", "norm.bias", "norm.running_mean"} <= replaced(model)
    base = tiny_resnet()
    base.norm.running_mean.add_(1)
    assert torch.equal(logits(hybridopt.from_pretrained(base, tmp_path)), expected)
