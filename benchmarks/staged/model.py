"""A model of some layers of Llama-3-70B's shape in nf4, with adapters that already do something."""

from typing import Any

import torch
from peft import LoraConfig

import hybridopt

from ..shared.llama import SETS
from ..shared.llama_model import config_of, set_checkpointing
from ..shared.random_llama import random_llama

RANK, CHUNK = 16, 256  # of the adapters; tokens of which the loss is computed at a time
POLICY = "adamw"


def build(size: str, device: str) -> Any:
    """Return the model, wrapped, with everything on the device; its embedding is looked up there, too.

    Args:
        size: of SETS.
        device: "cpu" or "cuda".
    """
    model = random_llama(config_of(SETS[size]), "nf4", torch.device(device), host=False)
    adapters = LoraConfig(r=RANK, target_modules="all-linear")
    model = hybridopt.wrap(model, POLICY, peft_config=adapters, adapter_dtype="bfloat16")
    set_checkpointing(model, on=True)
    generator = torch.Generator(device).manual_seed(1)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.01, generator=generator)
    return model.train()
