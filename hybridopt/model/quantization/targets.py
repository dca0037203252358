"""Which layers of a model a scheme quantizes, and what speaks against it."""

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ...core.contracts import Scheme
from ...core.errors import HybridOptError, HybridOptWarning
from ..adapters import adapted_layers
from ..containers import compiled_in_place
from .known import frozen_names
from .layers import is_linear
from .owners import scheme_of
from .read_elsewhere import read_elsewhere

__all__ = ["check", "check_layer", "chosen", "targets", "warn_of_read"]

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
LEAST = 64  # values of a weight: smaller ones are not worth their constants


def targets(
    model: nn.Module,
    scheme: Scheme,
    skip: Sequence[str] = (),
    device: torch.device | None = None,
    readable: bool = True,
) -> list[str]:
    """Return the names of the linear layers that `scheme` covers (transformers' `Conv1D` too).

    Left out are the modules named in `skip` with all beneath them, those that transformers keeps in fp32, layers that
    share their weight with another module, layers whose weight is no plain 16- or 32-bit float parameter of at least
    64 values, those whose weight other modules read, and those that the scheme itself does not cover.

    Args:
        model: on any device, meta too.
        scheme: what the layers are to be quantized with.
        skip: names of modules to leave out.
        device: where the model is going to be; None: where each layer is.
        readable: leave out what other modules read; without, see what they would have been.

    Raises:
        HybridOptError: for names in `skip` that the model does not have.
    """
    _check_skip(model, skip)
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    fp32 = {part for module in model.modules() for part in getattr(module, "_keep_in_fp32_modules", None) or ()}
    read = read_elsewhere(model, scheme.codes_dtype) if readable and not scheme.values_seen else {}
    return [
        name
        for name, module in model.named_modules()
        if name
        and _is_coverable(module)
        and scheme.covers(module, device or module.weight.device)
        and owners[id(module.weight)] == 1
        and not any(f"{name}.".startswith(f"{kept}.") for kept in skip)
        and not any(f".{part}." in f".{name}." for part in fp32)
        and name not in read
    ]


def check(model: nn.Module, scheme: Scheme, skip: Sequence[str] = (), readable: bool = True) -> list[str]:
    """Return the names of the layers that `quantize_` should replace; raise where it could not, and change nothing.

    Empty if the model already is quantized with this very scheme.

    Args:
        model: with real weights.
        scheme: what its layers are to be quantized with.
        skip: names of modules to leave out, see `targets`.
        readable: leave out what other modules read, see `targets`.
    """
    _check_skip(model, skip)
    if scheme_of(model) == scheme.name:
        return []
    _check_untouched(model, scheme)
    names = chosen(model, scheme, skip, readable=readable)
    for name in names:
        check_layer(name, model.get_submodule(name), scheme)
    return names


def chosen(
    model: nn.Module,
    scheme: Scheme,
    skip: Sequence[str] = (),
    device: torch.device | None = None,
    readable: bool = True,
) -> list[str]:
    """Return `targets`, of which there must be one; raise HybridOptError if there is none.

    Args:
        model: on any device, meta too.
        scheme: what the layers are to be quantized with.
        skip: names of modules to leave out.
        device: where the model is going to be; None: where each layer is.
        readable: leave out what other modules read, see `targets`.
    """
    names = targets(model, scheme, skip, device, readable)
    if not names:
        raise HybridOptError(
            f"quantization={scheme.name!r}: the model has no linear layer to quantize (16- or 32-bit float weights, "
            f"not tied, not read by other modules, not in skip={list(skip)}, on CPUs as wide as a multiple of 64); "
            "leave `quantization` out"
        )
    return names


def warn_of_read(model: nn.Module, scheme: Scheme, skip: Sequence[str] = (), stacklevel: int = 2) -> None:
    """Warn of layers that are not quantized because other modules read their weights.

    Args:
        model: before it is quantized.
        scheme: what it is going to be quantized with.
        skip: names of modules that are left out anyway.
        stacklevel: as that of `warnings.warn`, seen from here.
    """
    read = {} if scheme.values_seen else read_elsewhere(model, scheme.codes_dtype)
    lost = [name for name in targets(model, scheme, skip, readable=False) if name in read] if read else []
    if lost:
        warnings.warn(
            f"{len(lost)} linear layers such as {lost[0]!r} are not quantized: {read[lost[0]]} reads their weights "
            f"itself, and would find {scheme.codes_dtype} codes there",
            HybridOptWarning,
            stacklevel=stacklevel + 1,
        )


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
    if compiled_in_place(layer) and not scheme.in_place:
        raise HybridOptError(
            f"{name} was compiled in place, and its quantized replacement would not be; call torch.compile, or "
            "compile(), after wrap"
        )
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
