"""The model that is planned: of its configuration, on meta, with adapters and quantized layers."""

import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from ...core.deferred_compile import compiled_later
from ...core.dtypes import DTYPES
from ...core.errors import HybridOptError
from ...core.patching import instead
from ...model.adapters import bare, dtype_of_adapters, library_for, usual_library
from ...model.quantization.replacing import twins_
from ...model.quantization.scales import open_scales_
from ...model.quantization.scheme_names import frozen_names
from ...model.quantization.targets import chosen
from ...model.roles import head_modules
from ..request import Request
from .building import causal, no_model
from .dimensions import Subject

__all__ = ["Subject", "checkpoint_", "checkpoints", "layers", "skeleton"]

DRAWN = ("kaiming_uniform_", "normal_", "uniform_", "zeros_")  # what layers of torch, transformers and PEFT begin with


def skeleton(source: Subject, request: Request, depth: int | None = None) -> nn.Module:
    """Return the model on the meta device: quantized, with adapters and checkpointed as the request says.

    Args:
        source: of the dimensions.
        request: what is planned.
        depth: so many layers instead of all.

    Raises:
        HybridOptError: where the request cannot be met.
    """
    _check_stored(source, request)
    with _quiet(), _without_values(), compiled_later(), torch.device("meta"):
        model = _bare(source, request, depth)
        if request.scheme is not None:
            twins_(model, request.scheme, chosen(model, request.scheme, sorted(head_modules(model))))
            open_scales_(model) if request.ready.opens_scales else None
        if request.lora is not None:
            model = _adapted(model, request)
        if request.checkpointing:
            checkpoint_(model, request.reentrant)
    return model.train()


def layers(model: nn.Module, depth: int) -> nn.ModuleList | None:
    """Return the repeated layers: the first list of `depth` modules; None if there is none."""
    lists = (m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth)
    return next(lists, None)


def checkpoint_(model: Any, reentrant: bool) -> None:
    """Switch on transformers' checkpointing; raise HybridOptError for a model that has none."""
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        if reentrant:
            model.enable_input_require_grads()
    except (ValueError, AttributeError, NotImplementedError) as error:  # as transformers says no
        raise HybridOptError(
            f"checkpointing=True: {type(bare(model)).__name__} does not take part in transformers' checkpointing; "
            "leave checkpointing out (--no-checkpointing), or take shorter sequences, LoRA or a smaller batch"
        ) from error


def checkpoints(source: Subject) -> bool:
    """Return whether a model's layers can be computed again in the backward pass, asked of one with few layers."""
    settings = {name: value for name, value in source.settings.items() if name != "quantization_config"}
    try:
        skeleton(replace(source, settings=settings), Request(checkpointing=True), min(2, source.depth))
    except HybridOptError:
        return False
    return True


def _check_stored(source, request):
    """Raise HybridOptError for weights that are stored quantized, unless the request says by what."""
    stored = source.settings.get("quantization_config") or {}
    method = stored.get("quant_method", "bitsandbytes" if stored.get("load_in_4bit") else None)
    if not stored or (method == "bitsandbytes" and request.quantization is not None):
        return
    cure = f"say which: quantization={frozen_names()}" if method == "bitsandbytes" else "plan its original"
    raise HybridOptError(f"model={source.name!r}: its weights are stored quantized ({method}); {cure}")


def _bare(source, request, depth):
    import transformers

    def made(settings, depth):
        config = replace(source, settings=settings).config(depth, request.device == "cuda")
        named = (getattr(transformers, str(name), None) for name in config.architectures or ())
        kind = next((k for k in named if k is not None), None) or causal(source.name, config)
        make = getattr(kind, "_from_config", None) or kind.from_config
        return make(config, dtype=getattr(torch, DTYPES[request.dtype]))

    before = torch.get_default_dtype()
    try:
        return made(source.settings, depth)
    except HybridOptError:
        raise
    except Exception as error:  # transformers raises many types
        raise no_model(source.name, source.settings, partial(made, depth=1)) from error
    finally:
        torch.set_default_dtype(before)


def _adapted(model: nn.Module, request: Request) -> nn.Module:
    given = request.peft_config
    try:
        library = usual_library() if given is None else library_for(given)
        config = library.make_config(request.lora or 0) if given is None else given
        dtype = dtype_of_adapters("plan", request.adapter_dtype)
        return library.attach(model, config, empty=True, dtype=dtype)
    except HybridOptError as error:
        raise HybridOptError(error.text, owner="peft_config") from error
    except Exception as error:  # libraries of adapters raise many types
        what = f"lora={request.lora}" if given is None else "peft_config"
        raise HybridOptError(f"{what}: PEFT cannot put it on {type(model).__name__}: {error}") from error


@contextmanager
def _quiet():
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _without_values():
    """Leave out the random values of layers, which tensors on the meta device would not keep."""
    with ExitStack() as stack:
        for name in DRAWN:
            stack.enter_context(instead(nn.init, name, _but_on_meta(getattr(nn.init, name))))
        yield


def _but_on_meta(draw):
    return lambda tensor, *args, **options: tensor if tensor.is_meta else draw(tensor, *args, **options)
