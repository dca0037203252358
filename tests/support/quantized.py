"""Quantized tiny models, and what tests of them ask for."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from support import quantization
from support.models import batch, tiny_llama

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
FP4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False}
OPTIONS = {"nf4": NF4, "fp4": FP4, "int8": {"load_in_8bit": True}}


def quantized(model, scheme, skip=()):
    quantization.quantize_(model, scheme, quantization.check(model, scheme, skip))
    return model


def load(folder, **options):
    """A tiny Llama as transformers itself quantizes it."""
    tiny_llama().save_pretrained(folder)
    config = BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.float32, **options)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map="cpu")


def with_lora(model):
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).train()


def evaluate(model):
    with torch.no_grad():
        return model.eval()(**batch(model)).logits


def values(model):
    return {name: (tensor.dtype, tensor.clone()) for name, tensor in model.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(one[k][0] == two[k][0] and torch.equal(one[k][1], two[k][1]) for k in one)
