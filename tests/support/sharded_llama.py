"""A small Llama that is sharded or not, in every way in which users shard one."""

import warnings

import torch
from peft import LoraConfig

import hybridopt

from .models import tiny_llama

__all__ = ["LORA", "llama", "trained"]

LORA = {"r": 3, "target_modules": ["q_proj", "down_proj"]}


def codes(module):
    """Quantized weights stay whole on every rank."""
    packed = {p for p in module.parameters() if not p.is_floating_point()}
    return {"ignored_params": packed} if packed else {}


def llama(ranks, after=False, mixed=False, offload=False, lora=False, nf4=False, **options):
    """Return the wrapped model; `ranks`: sharded, `after`: wrapped after that, options: of the policy."""
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

    told = {"mp_policy": MixedPrecisionPolicy(torch.bfloat16)} if mixed else {}
    told |= {"offload_policy": CPUOffloadPolicy(pin_memory=False)} if offload else {}

    def cut(model):
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        for layer in base.model.layers if ranks else ():
            fully_shard(layer, **told, **codes(layer))
        return fully_shard(model, **told, **codes(model)) if ranks else model

    torch.manual_seed(0)
    model = tiny_llama()
    given = {"peft_config": LoraConfig(**LORA)} if lora else {}
    given |= {"quantization": "nf4"} if nf4 else {}
    torch.manual_seed(1)
    return hybridopt.wrap(cut(model), **given, **options) if after else cut(hybridopt.wrap(model, **given, **options))


def trained(model, steps=2, first=0, optimizer=None):
    """Train for some steps, from step `first` on, whose tokens follow from its number; return the optimizer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = optimizer or model.hybrid.optimizer(lr=1e-2)
        for step in range(first, first + steps):
            tokens = torch.randint(0, 32, (2, 12), generator=torch.Generator().manual_seed(step))
            model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return optimizer
