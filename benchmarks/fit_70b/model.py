"""A model of Llama-3-70B's shape with random weights, made on the device one by one and quantized at once."""

from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import LlamaConfig

import hybridopt

from ..shared.random_llama import random_llama
from .scenarios import Scenario


def llama(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int) -> LlamaConfig:
    """Return transformers' configuration of a Llama.

    Args:
        hidden: width.
        inner: width within the MLP.
        layers: how many.
        heads: of attention.
        kv_heads: of keys and values.
        vocab: tokens.
    """
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocab,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        use_cache=False,
    )


SIZES = {"70b": llama(8192, 28672, 80, 64, 8, 128256), "tiny": llama(128, 256, 2, 4, 2, 512)}
ADAPTERS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def build(size: str, scenario: Scenario, device: str) -> nn.Module:
    """Return the model of a scenario, ready for `wrap`; full-precision weights of one layer are held at a time.

    Args:
        size: of SIZES.
        scenario: says how weights are kept.
        device: where they are made.
    """
    model = random_llama(SIZES[size], scenario.quantization, torch.device(device), scenario.host)
    if scenario.host:
        FromHost.of(model)
    return model.train()


def prepared(model: Any, scenario: Scenario) -> nn.Module:
    """Return the model with adapters, policy and checkpointing."""
    config = None if scenario.lora is None else LoraConfig(r=scenario.lora, target_modules="all-linear")
    model = hybridopt.wrap(model, scenario.policy, peft_config=config, **scenario.options)
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = p.data.to(ADAPTERS[scenario.adapters])
    if scenario.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


class FromHost:
    """Hooks that look tokens up in a table in the host's memory and hand their vectors to the device."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def before(self, table: nn.Module, args: tuple) -> tuple:
        """Bring the tokens to the table."""
        self.device = args[0].device
        return (args[0].to(table.weight.device),)

    def after(self, table: nn.Module, args: tuple, found: Tensor) -> Tensor:
        """Bring the vectors to the device.

        Args:
            table: the embedding.
            args: its arguments.
            found: its result.
        """
        return found.to(self.device)

    @staticmethod
    def of(model: Any) -> None:
        """Attach them before all other hooks."""
        hooks, table = FromHost(), model.get_input_embeddings()
        table.weight.requires_grad_(False)
        table.register_forward_pre_hook(hooks.before, prepend=True)
        table.register_forward_hook(hooks.after, prepend=True)
