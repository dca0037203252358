"""The parameters that a model will have once it is quantized and has adapters, before anything is done to it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..core.contracts import Adapters, PackedWeight, Scheme
from ..core.errors import HybridOptError
from .quantization.layers import is_named
from .quantization.owners import owner
from .quantization.scheme_names import frozen_names
from .roles import Param, base_name, clean, of_base, params

__all__ = ["Changes", "foreseen"]


@dataclass(frozen=True)
class Changes:
    """What is going to be done to a model.

    Args:
        scheme: what `layers` are quantized with; None: nothing is.
        layers: names of the weights that are quantized, those of linear layers by the layer.
        kept: names of modules that are left out of it.
        opens_scales: are the scales of all quantized layers opened for training?
        adapters: the library that puts adapters on the model; None: there will be no new ones.
        preview: the model without memory, as it is with those adapters.
        dtype: of the new adapters; None: what their library makes.
    """

    scheme: Scheme | None = None
    layers: Sequence[str] = ()
    kept: Sequence[str] = ()
    opens_scales: bool = False
    adapters: Adapters | None = None
    preview: nn.Module | None = None
    dtype: torch.dtype | None = None


def foreseen(model: nn.Module, changes: Changes) -> list[Param]:
    """Return the parameters of `model` as they will be after the changes.

    Raises HybridOptError if scales are to be opened and there are none.
    """
    dtype = _dtype_of_codes(changes.scheme)
    now = [_quantized(p, changes, dtype) for p in params(model)]
    if changes.preview is not None:
        now = _adapted(now, changes.preview)
    if changes.opens_scales and not any(p.role == "scales" for p in now):
        now += _opened(model, now, changes)
    return now


def _adapted(now: list[Param], preview: nn.Module) -> list[Param]:
    """Return the parameters of a preview, in which those of the base are what they are `now`."""
    of_now, own = {p.name: p for p in now}, of_base(preview)
    found = []
    for p in params(preview):
        base = of_now.get(base_name(p.name)) if own(p.name) else None
        trainable = p.trainable and (base is None or base.role != "quantized")
        found.append(p if base is None else replace(base, name=p.name, trainable=trainable))
    return found + [p for p in now if p.role == "scales"]


def _dtype_of_codes(scheme: Scheme | None) -> torch.dtype:
    """Return the dtype of the parameters that frozen codes are kept as."""
    if scheme is None:
        return torch.uint8
    twin: Any = scheme.twin(nn.Linear(64, 64, device="meta"))
    dtype: torch.dtype = twin.weight.dtype
    return dtype


def _quantized(p: Param, changes: Changes, dtype: torch.dtype) -> Param:
    scheme = changes.scheme
    if scheme is None or not is_named(p.name, changes.layers):
        return p
    if scheme.trains:
        return replace(p, codes=scheme.codes_dtype)
    return replace(p, role="quantized", dtype=dtype, trainable=False)


def _opened(model: nn.Module, now: list[Param], changes: Changes) -> list[Param]:
    live = {clean(name): p for name, p in model.named_parameters()}
    found = []
    for p in (p for p in now if p.role == "quantized"):
        if base_name(p.name) in changes.layers or isinstance(live[base_name(p.name)], PackedWeight):
            continue  # in a module that is no quantized layer, and has no place for scales
        scheme = owner(live[base_name(p.name)]) or changes.scheme
        shapes = {} if scheme is None else scheme.scale_shapes(p.shape)
        found += [Param(f"{p.name}.{name}", "scales", shape) for name, shape in shapes.items()]
    if not found:
        raise HybridOptError(
            "this policy trains the scales of quantized weights, and there are none: pass "
            f"quantization={frozen_names()}, or give a model that is quantized already"
        )
    return found
