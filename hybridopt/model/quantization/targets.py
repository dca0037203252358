"""Which layers of a model a scheme quantizes, and what speaks against it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ...core.contracts import Scheme
from ...core.errors import HybridOptError
from ..adapters import adapted_layers
from .known import frozen_names
from .layers import is_linear
from .owners import scheme_of

__all__ = ["check", "check_layer", "chosen", "targets"]

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
LEAST = 64  # values of a weight: smaller ones are not worth their constants


def targets(
    model: nn.Module, scheme: Scheme, skip: Sequence[str] = (), device: torch.device | None = None
) -> list[str]:
    """Return the names of the linear layers that `scheme` covers (transformers' `Conv1D` too).

    Left out are the modules named in `skip` with all beneath them, those that transformers keeps in fp32, layers that
    share their weight with another module, layers whose weight is no plain 16- or 32-bit float parameter of at least
    64 values, and those that the scheme itself does not cover.

    Args:
        model: on any device, meta too.
        scheme: what the layers are to be quantized with.
        skip: names of modules to leave out.
        device: where the model is going to be; None: where each layer is.

    Raises:
        HybridOptError: for names in `skip` that the model does not have.
    """
    _check_skip(model, skip)
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    fp32 = {part for module in model.modules() for part in getattr(module, "_keep_in_fp32_modules", None) or ()}
    return [
        name
        for name, module in model.named_modules()
        if name
        and _is_coverable(module)
        and scheme.covers(module, device or module.weight.device)
        and owners[id(module.weight)] == 1
        and not any(f"{name}.".startswith(f"{kept}.") for kept in skip)
        and fp32.isdisjoint(name.split("."))
    ]


def check(model: nn.Module, scheme: Scheme, skip: Sequence[str] = ()) -> list[str]:
    """Return the names of the layers that `quantize_` should replace; raise where it could not, and change nothing.

    Empty if the model already is quantized with this very scheme.

    Args:
        model: with real weights.
        scheme: what its layers are to be quantized with.
        skip: names of modules to leave out, see `targets`.
    """
    _check_skip(model, skip)
    if scheme_of(model) == scheme.name:
        return []
    _check_untouched(model, scheme)
    names = chosen(model, scheme, skip)
    for name in names:
        check_layer(name, model.get_submodule(name), scheme)
    return names


def chosen(
    model: nn.Module, scheme: Scheme, skip: Sequence[str] = (), device: torch.device | None = None
) -> list[str]:
    """Return `targets`, of which there must be one; raise HybridOptError if there is none.

    Args:
        model: on any device, meta too.
        scheme: what the layers are to be quantized with.
        skip: names of modules to leave out.
        device: where the model is going to be; None: where each layer is.
    """
    names = targets(model, scheme, skip, device)
    if not names:
        raise HybridOptError(
            f"quantization={scheme.name!r}: the model has no linear layer to quantize (16- or 32-bit float weights, "
            f"not tied, not in skip={list(skip)}, on CPUs as wide as a multiple of 64); leave `quantization` out"
        )
    return names


def check_layer(name: str, layer: Any, scheme: Scheme) -> None:
    """Raise HybridOptError if a layer cannot be quantized as it is.

    Args:
        name: of the layer, for the error.
        layer: a linear layer; refused if its weight has no values or too large ones, or if it has hooks that a
            layer in its place would not have.
        scheme: what it is to be quantized with.
    """
    weight = layer.weight
    if weight.is_meta:
        raise HybridOptError(f"{name}.weight is on the meta device; load the weights before quantizing them")
    hooked = "forward" in vars(layer) or any(value for key, value in vars(layer).items() if key.endswith("_hooks"))
    if hooked and not scheme.in_place:
        raise HybridOptError(f"{name} has hooks, which its quantized replacement would lose; add them after wrap")
    low, high = (value.item() for value in torch.aminmax(weight.detach()))
    if not -scheme.largest <= low <= high <= scheme.largest:
        raise HybridOptError(
            f"{name}.weight has values from {low} to {high}; quantization={scheme.name!r} takes finite ones up to "
            f"{scheme.largest:g}"
        )


def _check_skip(model: nn.Module, skip: Sequence[str]) -> None:
    if unknown := sorted(set(skip) - {name for name, _ in model.named_modules()}):
        raise HybridOptError(f"skip={unknown}: the model has no modules of that name")


def _check_untouched(model: nn.Module, scheme: Scheme) -> None:
    if present := scheme_of(model) or (getattr(model, "is_quantized", False) and model.quantization_method):
        raise HybridOptError(
            f"quantization={scheme.name!r}: the model already is quantized ({present}); leave `quantization` out, or "
            "load the model in full precision"
        )
    for name in adapted_layers(model):
        cure = "quantization comes first: pass the bare model with both `quantization` and `peft_config`"
        cure = f"its base is frozen; take {frozen_names()}" if scheme.trains else cure
        raise HybridOptError(f"quantization={scheme.name!r}: {name} already has an adapter; {cure}")


def _is_coverable(layer: nn.Module) -> bool:
    if not is_linear(layer):
        return False
    weight = layer._parameters.get("weight")  # None where weight_norm has taken its place
    return type(weight) is nn.Parameter and weight.dtype in FLOATS and weight.numel() >= LEAST
