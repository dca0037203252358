"""Whether a tuner of PEFT computes on quantized layers, or in another dtype: tried on one layer of the model's size.

PEFT says so of some tuners only. Others fail in the first forward pass, or take codes for weights without a word.
"""

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core.contracts import Scheme
from hybridopt.core.errors import HybridOptError
from hybridopt.model.quantization.layers import is_linear, matrix_shape
from hybridopt.model.quantization.owners import layer_scheme

from . import tree
from .rehearsal import CURE, cast_, plain_start

__all__ = ["check_computes"]

UNIT = 1 / 32  # weights are -UNIT, 0 and UNIT, which every scheme keeps exactly
LARGEST = 0.1  # relative difference of answers; 8-bit products of activations make 1 %, codes as weights all


def check_computes(
    model: nn.Module, adapted: Any, adapter: str, scheme: Scheme | None = None, dtype: torch.dtype | None = None
) -> None:
    """Raise HybridOptError if adapters could not be trained on the quantized layers of a model, or in a dtype.

    Args:
        model: what the adapters are for, or have been put into; it is not changed.
        adapted: what PEFT makes of it, see `rehearsal`.
        adapter: name of the adapter.
        scheme: by which the model is about to be quantized; None: it stays as it is, quantized or not.
        dtype: that the adapters are to be cast to; None: to none.
    """
    config = plain_start(adapted.peft_config[adapter])
    found = _smallest(model, adapted.base_model.targeted_module_names, scheme)
    if dtype is None and (found is None or found[2] is None):
        return
    try:
        expected = _answer(*found[:2], config, None, None) if found is not None else None
    except Exception:  # such as of a tuner that needs more of the model than a layer
        expected = None
    if found is None or expected is None:
        return _check_untried(config, dtype)
    name, layer, kept_by = found
    what = f"{type(config).__name__} on {kept_by.name} weights" if kept_by is not None else type(config).__name__
    what = what if dtype is None else f"{what} in {str(dtype).removeprefix('torch.')}"
    cure = f"leave out {'quantization' if dtype is None else 'adapter_dtype'}, or {CURE}"
    try:
        answer = _answer(name, layer, config, kept_by, dtype)
    except Exception as error:  # PEFT and torch raise many types
        raise HybridOptError(f"{what}: PEFT cannot train it ({error!s:.300}); {cure}") from error
    difference = ((answer - expected).norm() / expected.norm()).item()
    if not difference < LARGEST:
        raise HybridOptError(
            f"{what}: PEFT computes something else than on plain weights (answers differ by {difference:.0%}); {cure}"
        )


def _check_untried(config: Any, dtype: torch.dtype | None) -> None:
    """Raise HybridOptError if a dtype was asked for that no layer alone can be tried with."""
    if dtype is not None:
        raise HybridOptError(
            f"{type(config).__name__}: adapter_dtype can be tried on adapters of linear layers only, and is not "
            f"allowed untried; leave out adapter_dtype, or {CURE}"
        )


def _smallest(model: nn.Module, names: list[str], scheme: Scheme | None) -> tuple[str, Any, Scheme | None] | None:
    """Return name and layer of the smallest targeted linear layer and what keeps its weight, quantized ones first."""
    found, there = [], {name for name, _ in model.named_modules()}
    for name in (n for n in names if n in there):  # layers that PEFT repeats are not there yet
        layer: Any = tree.inner(model.get_submodule(name))
        own = layer_scheme(layer)
        if (own is None and not is_linear(layer)) or layer.weight.is_meta:
            continue
        if own is None and scheme is not None and scheme.covers(layer, layer.weight.device):
            own = scheme
        found.append((own is None, layer.weight.numel(), name, layer, own))
    if not found:
        return None
    _, _, name, layer, own = min(found, key=lambda each: each[:3])
    return name, layer, own


def _answer(name: str, layer: Any, config: Any, scheme: Scheme | None, dtype: torch.dtype | None) -> Tensor:
    """Return what a layer of this size says with adapters that are not zero, after a backward pass through it."""
    from peft import get_peft_model

    weight = layer.weight
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[weight.device] if weight.is_cuda else []):
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(0)
        plain = _ternary(layer)
        holder = _holder(name, plain if scheme is None else scheme.quantize(plain))
        if scheme is not None:
            scheme.mark_(holder)
        adapted = get_peft_model(holder, copy.deepcopy(config), "default").eval()
        random = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in adapted.parameters():
                if p.requires_grad:
                    p.add_(torch.randn(p.shape, generator=random).to(p) / 64)
        if dtype is not None:
            cast_(adapted, dtype)
        x = torch.randn(2, 4, plain.in_features, generator=random).to(plain.weight).requires_grad_()
        answer = adapted.get_base_model().get_submodule(name)(x)
        answer.float().square().mean().backward()
        return answer.detach().float()


def _ternary(layer: Any) -> nn.Linear:
    """Return a plain linear layer of the size, dtype and device of `layer`, quantized or not."""
    scheme, weight = layer_scheme(layer), layer.weight
    rows, columns = matrix_shape(layer) if scheme is None else scheme.shape(weight)
    dtype = weight.dtype if scheme is None else torch.float32
    plain = nn.Linear(columns, rows, layer.bias is not None, weight.device, dtype)
    with torch.no_grad():
        plain.weight.copy_(torch.randint(-1, 2, (rows, columns)) * UNIT)
    return plain.requires_grad_(False)


def _holder(name: str, layer: nn.Module) -> nn.Module:
    """Return a model that holds nothing but one layer, under the name that it has in its own."""
    for part in reversed(name.split(".")):
        holder = nn.Module()
        holder.add_module(part, layer)
        layer = holder
    return layer
