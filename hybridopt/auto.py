"""policy="auto": choose the first way to train that fits a live model, and prepare the model for it."""

import copy
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from .core.budget import Budget, budget
from .core.devices import free_bytes
from .core.errors import HybridOptError
from .core.sizes import gib
from .model.adapters import adapted_layers, library_for, usual_library
from .model.fsdp.sharded_tensors import check_plain, class_of
from .model.placement.placement import Placement
from .model.quantization.owners import scheme_of
from .planning.estimator import Estimator
from .planning.request import DTYPES, short_name
from .planning.subject.model import checkpoint_
from .planning.subject.source import subject_of
from .planning.table import watched
from .planning.ways.search import Choice, search
from .planning.ways.ways import WAYS
from .policy.other_names import check_known

__all__ = ["chosen", "prepare_"]

SIZES = ("seq_len", "batch", "micro_batches")


def chosen(
    model: nn.Module,
    memory: str | int | None = None,
    margin: float | None = None,
    peft_config: Any = None,
    quantization: str | None = None,
    adapter_dtype: Any = None,
    placement: Placement | None = None,
    **size: Any,
) -> tuple[Choice, Any]:
    """Return the first way that `search` finds for this model and memory, and the adapters that it wants.

    Adapters and quantization that are given are kept to, as is a quantization that the model already has.

    Args:
        model: of transformers, without adapters.
        memory: a card ("4090", "auto" for this machine's), a size ("24GiB"), or bytes; None: what the model's GPU
            has left for this process.
        margin: share of the memory that is kept free; None: 4 %.
        peft_config: adapters that are wanted; None: whatever the way says.
        quantization: a scheme that is wanted; None: whatever the way says.
        adapter_dtype: of adapters, as `wrap` takes it; a way without them does not care.
        placement: where the weights of layers rest, which are then not trained: adapters are.
        **size: seq_len (2048, or as many as there are positions for), batch (1), micro_batches (1).

    Raises:
        HybridOptError: if nothing fits beside the margin, and for models that their configuration does not describe.
    """
    check_known("policy='auto', which chooses by itself,", size, ("memory", "margin", *SIZES))
    quantization = quantization or scheme_of(model)
    _check_model(model, peft_config is not None or quantization is not None)
    room = _memory(memory, margin, next(p for p in model.parameters() if p.is_floating_point()).device)
    told = size | {"adapter_dtype": adapter_dtype, "placement": placement}
    choice = _choose(model, room, peft_config, quantization, told)
    if choice.request.lora is not None and peft_config is None:
        peft_config = usual_library().make_config(choice.request.lora)
    return choice, peft_config


def prepare_(wrapped: nn.Module, choice: Choice) -> None:
    """Switch on checkpointing and the cache off as a way wants it, and note the way in `hybrid.choice`."""
    if choice.request.checkpointing:
        checkpoint_(wrapped, choice.request.reentrant)
    if choice.request.probes:
        wrapped.config.use_cache = False  # type: ignore[union-attr]  # a configuration; its cache is never read
    wrapped.__dict__["hybrid"].choice = choice


def _check_model(model: nn.Module, freezes: bool) -> None:
    """Raise HybridOptError for a model of which the configuration does not tell what training takes.

    freezes: are parameters to be frozen anyway?
    """
    kind, config = class_of(model).__name__, getattr(model, "config", None)
    if not hasattr(config, "to_dict") or not hasattr(config, "model_type"):
        raise HybridOptError(
            f"policy='auto' plans transformers models, and {kind} has no configuration of that kind; name a policy"
        )
    check_plain(model, "policy='auto' plans for one GPU; name the policy that `hybridopt plan --gpus` chooses")
    if adapted_layers(model):
        raise HybridOptError(
            f"policy='auto' chooses adapters, and {kind} has some already; give it the model without them, with "
            "peft_config=... if these are wanted, or name a policy"
        )
    frozen = next((n for n, p in model.named_parameters() if p.is_floating_point() and not p.requires_grad), None)
    if frozen is not None and not freezes:
        raise HybridOptError(
            f"policy='auto' plans the training of all parameters, and {frozen!r} has requires_grad=False; set it to "
            "True, pass peft_config=..., or name a policy"
        )


def _choose(
    model: nn.Module,
    room: Budget,
    peft_config: Any,
    quantization: str | None,
    size: dict[str, Any],
) -> Choice:
    """Search for the first way that fits the model with its own weights, dtype and device."""
    first = next(p for p in model.parameters() if p.is_floating_point())
    dtype = short_name(first.dtype)
    if dtype is None:
        raise HybridOptError(f"policy='auto' plans {', '.join(DTYPES)}, and the model is {first.dtype}; name a policy")
    adapters = None if peft_config is None else library_for(peft_config).rank(peft_config) or 1
    if size["placement"] is not None and adapters is None:
        adapters = next(way.lora for way in WAYS if way.lora)
    asked = {"lora": adapters, "quantization": quantization}
    asked = {name: value for name, value in asked.items() if value is not None}
    asked["chunk"] = None  # who trains might want the logits
    on_gpu = first.is_cuda or torch.cuda.is_available()  # where it is trained, if not yet there
    told = {"dtype": dtype, "device": "cuda" if on_gpu else "cpu", "peft_config": peft_config, **size}
    config: Any = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]  # a checkpoint's may be another
    told |= {"asked": asked, "watch": watched, "estimator": Estimator(subject_of(config))}
    with suppress(HybridOptError):  # nothing fits: the whole search says why
        if (best := search(config, room, enough=1, **told)[0]).fits:
            return best
    best = search(config, room, **told)[0]
    raise HybridOptError(
        f"policy='auto': nothing fits into {room}; {best.way.title} takes {gib(best.estimate.peak_bytes)}, which "
        "is within the margin that is kept free; take shorter sequences, or margin=0 to fill the memory"
    )


def _memory(memory: str | int | None, margin: float | None, device: torch.device) -> Budget:
    """Return what may be planned for; of memory=None what the GPU has left for this process."""
    if memory is None and device.type == "cuda":
        memory = free_bytes(device) + torch.cuda.memory_allocated(device)
    if not isinstance(memory, str | int) or isinstance(memory, bool):
        raise HybridOptError(
            f"memory={memory!r} is not allowed; give a card such as '4090', a size such as '24GiB', or bytes"
        )
    return budget(memory, margin)
