"""Llamas with random weights, made on the device one by one and quantized at once."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from hybridopt.model.loading.matching import shared_names
from hybridopt.model.loading.materializing import InputGradients, fill, finish
from hybridopt.model.quantization.scheme_names import named
from hybridopt.model.quantization.targets import chosen

SPREAD = 0.02  # standard deviation of the weights


def random_llama(config: LlamaConfig, quantization: str | None, device: torch.device, host: bool) -> Any:
    """Return a model of a configuration; full-precision weights of one layer are held at a time.

    Args:
        config: of transformers.
        quantization: of the linear layers but the output layer; None: bfloat16.
        device: where they are made.
        host: does the embedding table go to the host's memory?
    """
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(copy.deepcopy(config), dtype=torch.bfloat16)
    scheme = None if quantization is None else named(quantization, "random_llama")
    layers = [] if scheme is None else chosen(model, scheme, ["lm_head"], device)
    fill(model, random_weights(model, device, host), scheme, layers)
    finish(model, device)
    if scheme is not None:
        InputGradients.of(model)
    return model


def random_weights(model: nn.Module, device: torch.device, host: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of every tensor: norms are one, everything else is normally distributed.

    Args:
        model: whose tensors.
        device: where they are made.
        host: does the embedding table go to the host's memory?
    """
    torch.manual_seed(0)
    empty = model.state_dict()
    for name in (names[0] for names in shared_names(model)):
        like = empty[name]
        made = torch.empty(like.shape, dtype=like.dtype, device=device)
        made.fill_(1.0) if like.ndim == 1 else made.normal_(std=SPREAD)
        yield name, made.cpu() if host and "embed_tokens" in name else made
        del made
