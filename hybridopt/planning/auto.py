"""policy="auto": the first way to train that fits, set up on a live model."""

from typing import Any

import torch
from torch import nn

from ..errors import HybridOptError
from ..wrapping import wrap
from .model import checkpoint_, lora_config
from .request import DTYPES
from .search import Choice, search
from .sizes import parse_size
from .table import watched

__all__ = ["wrap_auto"]

SIZES = ("seq_len", "batch", "micro_batches")


def wrap_auto(
    model: nn.Module, memory: str | int | None, peft_config: Any, quantization: str | None, seed: int, **size: Any
) -> nn.Module:
    """`wrap` by the first way that `search` finds for this model and memory; the way is `model.hybrid.choice`.

    memory: such as "24GiB", or bytes; None: what the model's GPU has left for this process. size: seq_len (2048),
    batch (1), micro_batches (1). Adapters and quantization that are given are kept to. Gradient checkpointing is
    switched on, and `model.hybrid.optimizer()` takes the release, where the way says so. Raises HybridOptError, before
    the model is changed, if nothing fits.
    """
    if unknown := sorted(size.keys() - set(SIZES)):
        raise HybridOptError(
            f"policy='auto' has no option {unknown[0]!r}; it takes memory, {', '.join(SIZES)}, and chooses the rest"
        )
    choice = _choose(model, memory, peft_config, quantization, size)
    request = choice.request
    if request.lora is not None and peft_config is None:
        peft_config = lora_config(request.lora)
    wrapped = wrap(
        model,
        request.policy,
        peft_config=peft_config,
        quantization=request.quantization,
        seed=seed,
        **request.options,
    )
    if request.checkpointing:
        checkpoint_(wrapped, request.reentrant)
    wrapped.hybrid.choice = choice
    return wrapped


def _choose(model: nn.Module, memory: str | int | None, peft_config: Any, quantization: str | None, size) -> Choice:
    config = getattr(model, "config", None)
    if not hasattr(config, "to_dict") or not hasattr(config, "model_type"):
        raise HybridOptError(
            f"policy='auto' plans transformers models, and {type(model).__name__} has no configuration of that kind; "
            "name a policy"
        )
    first = next(model.parameters())
    dtypes = {getattr(torch, name): short for short, name in DTYPES.items()}
    asked = {"lora": getattr(peft_config, "r", None), "quantization": quantization}
    asked = {name: value for name, value in asked.items() if value is not None}
    told = {"dtype": dtypes.get(first.dtype, "fp32"), "device": "cuda" if first.is_cuda else "cpu", **size}
    return search(config, _memory(memory, first.device), asked=asked, watch=watched, **told)[0]


def _memory(memory: str | int | None, device: torch.device) -> int:
    if isinstance(memory, str):
        return parse_size(memory, "memory")
    if memory is None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if not isinstance(memory, int) or isinstance(memory, bool) or memory <= 0:
        raise HybridOptError(f"memory={memory!r} is not allowed; give a size such as '24GiB', or a number of bytes")
    return memory
