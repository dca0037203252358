"""Llamas with random bfloat16 weights."""

import warnings

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from .llama import SETS, Llama


def config_of(llama: Llama) -> LlamaConfig:
    """Return transformers' configuration of a Llama."""
    return LlamaConfig(
        hidden_size=llama.hidden,
        intermediate_size=llama.inner,
        num_hidden_layers=llama.layers,
        num_attention_heads=llama.heads,
        num_key_value_heads=llama.kv_heads,
        vocab_size=llama.vocab,
        tie_word_embeddings=llama.tied,
        use_cache=False,
    )


def bare(size: str, device: str) -> LlamaForCausalLM:
    """Return the model of one of SETS with random weights, made on the device where they stay."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config_of(SETS[size]))
    finally:
        torch.set_default_dtype(before)
    return model.train()


def set_checkpointing(model: LlamaForCausalLM, on: bool) -> None:
    """Keep only the input of each layer for the backward pass, or everything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its new name is not in every transformers that will do
        if on:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            model.gradient_checkpointing_disable()
