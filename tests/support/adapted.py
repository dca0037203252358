"""Tiny models with adapters, and what tests of them ask for."""

import torch
from peft import LoraConfig

from support.models import batch
from support.quantized import quantized

LINEAR = {"target_modules": "all-linear"}
QUERY = {"target_modules": ["q_proj", "v_proj"]}


def lora(**options):
    return LoraConfig(**{"r": 4, **QUERY, **options})


def values(model):
    tensors = {name: (id(p), p._version, p.requires_grad, p.device) for name, p in model.named_parameters()}
    modules = [(name, id(module), type(module), module.training) for name, module in model.named_modules()]
    return tensors, modules, sorted(vars(model)), torch.get_rng_state().tolist()


def trained(model, seed=0):
    """Every trainable parameter moved, as training would."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, p in sorted(model.named_parameters()):
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=random) / 10)
    return model


def trainable(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def logits(model):
    with torch.no_grad():
        return model.eval()(**batch(model)).logits


def based(model, scheme):
    return quantized(model, scheme, ["lm_head"]) if scheme else model


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
