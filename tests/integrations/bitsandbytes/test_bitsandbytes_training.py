import logging

import bitsandbytes as bnb
import pytest
import torch
from peft.tuners.lora.bnb import Linear4bit, Linear8bitLt
from torch import nn
from transformers.trainer_utils import validate_quantization_for_training

from hybridopt.core.errors import HybridOptError
from hybridopt.integrations.bitsandbytes.frozen import is_news
from support import quantization
from support.models import batch, tiny_llama
from support.quantized import OPTIONS, evaluate, load, quantized, same, values, with_lora

SCHEMES = quantization.SCHEMES
ATTENTION = "model.layers.0.self_attn"


def gradients(model):
    model.zero_grad()
    model.train()(**batch(model)).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("scheme", "layer"), [("nf4", Linear4bit), ("fp4", Linear4bit), ("int8", Linear8bitLt)])
def test_peft_puts_its_own_quantized_layers_on_it_and_trainer_takes_it(scheme, layer):
    model = quantized(tiny_llama(), scheme, ["lm_head"])
    validate_quantization_for_training(model)  # norms and embeddings may train without an adapter
    peft_model = with_lora(model)
    validate_quantization_for_training(peft_model)
    assert type(model.get_submodule(f"{ATTENTION}.q_proj")) is layer


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("loaded", [False, True])
def test_an_evaluation_in_between_does_not_change_gradients(scheme, loaded, tmp_path):
    model = load(tmp_path, **OPTIONS[scheme]) if loaded else quantized(tiny_llama(), scheme, ["lm_head"])
    if loaded:
        quantization.guard_(model)
    model = with_lora(model)
    before, first = gradients(model), evaluate(model)
    after, again = gradients(model), evaluate(model)
    assert before.keys() == after.keys() and len(before) == 28
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(grad.any() for grad in before.values())
    assert torch.equal(first, again)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_training_leaves_the_base_bit_for_bit(scheme):
    model = quantized(tiny_llama(), scheme, ["lm_head"])
    before, size = quantization.fingerprint(model), quantization.weight_bytes(model)
    peft_model = with_lora(model)
    assert quantization.fingerprint(peft_model) == before
    optimizer = torch.optim.AdamW([p for p in peft_model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = peft_model(**batch(peft_model)).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    evaluate(peft_model)
    assert losses[-1] < losses[0]
    assert quantization.fingerprint(peft_model) == before
    assert quantization.weight_bytes(peft_model.unload()) == size


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_fingerprint_sees_one_bit_of_codes_and_constants(scheme):
    model = quantized(nn.Sequential(nn.Linear(64, 64)), scheme)
    weight = model[0].weight
    parts = [weight.data, weight.SCB] if scheme == "int8" else [weight.data, weight.quant_state.absmax]
    seen = {quantization.fingerprint(model)}
    for part in parts:
        part.view(torch.uint8).view(-1)[5] ^= 1
        seen.add(quantization.fingerprint(model))
    assert len(seen) == 3


def test_guard_refuses_a_repacked_model_and_touches_nothing():
    model = quantized(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), "nf4")
    for layer in model:
        layer.support_avx512bf16_for_cpu = True
    weight = model[1].weight
    weight.data, weight.quant_state = bnb.functional._convert_weight_packed_for_cpu(weight.data, weight.quant_state)
    with pytest.raises(HybridOptError, match=r"^1 \(1 of 2 4-bit layers\).*Load the model again"):
        quantization.guard_(model)
    assert all(layer.support_avx512bf16_for_cpu for layer in model)
    model.state_dict()  # unpacks, but the scales stay rounded
    with pytest.raises(HybridOptError, match="repacked"):
        quantization.guard_(model)


def test_guard_switches_repacking_off_everywhere_and_leaves_dense_models_alone():
    model = quantized(tiny_llama(), "nf4", ["lm_head"])
    layers = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    for layer in layers:
        layer.support_avx512bf16_for_cpu = True
    quantization.guard_(with_lora(model))
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    dense = tiny_llama()
    quantization.guard_(dense)
    assert same(values(dense), values(tiny_llama()))


@pytest.mark.parametrize("loaded", [False, True])
def test_int8_no_longer_logs_each_matrix_product(loaded, caplog):
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    logger.removeFilter(is_news)
    model = quantized(nn.Sequential(nn.Linear(8, 8)), "int8").eval()
    if loaded:  # as if another library had quantized it
        logger.removeFilter(is_news)
        quantization.guard_(model)
    with caplog.at_level(logging.WARNING, "bitsandbytes"):
        model(torch.randn(2, 8))
        logger.warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]
