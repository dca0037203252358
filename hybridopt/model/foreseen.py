"""The parameters that a model will have once it is quantized and has adapters, before anything is done to it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..core.contracts import Adapters, Scheme
from ..core.errors import HybridOptError
from .quantization.known import frozen_names
from .quantization.owners import owner
from .roles import Param, clean, params

__all__ = ["Changes", "foreseen"]


@dataclass(frozen=True)
class Changes:
    """What is going to be done to a model.

    Args:
        scheme: what `layers` are quantized with; None: nothing is.
        layers: names of the layers that are quantized.
        opens_scales: are the scales of all quantized layers opened for training?
        adapters: the library that puts adapters on the model; None: there will be no new ones.
    """

    scheme: Scheme | None = None
    layers: Sequence[str] = ()
    opens_scales: bool = False
    adapters: Adapters | None = None


def foreseen(model: nn.Module, changes: Changes) -> list[Param]:
    """Return the parameters of `model` as they will be after the changes.

    Adapters freeze all else but opened scales; one parameter stands for all that they add. Raises HybridOptError if
    scales are to be opened and there are none.
    """
    now = [_quantized(p, changes) for p in params(model)]
    if changes.opens_scales and not any(p.role == "scales" for p in now):
        now += _opened(model, now, changes)
    if changes.adapters is not None:
        name, shape = changes.adapters.sample
        now = [Param(p.name, p.role, p.shape, p.dtype, p.role == "scales") for p in now]
        now.append(Param(name, "adapter", shape))
    return now


def _quantized(p: Param, changes: Changes) -> Param:
    layer, _, last = p.name.rpartition(".")
    scheme = changes.scheme
    if scheme is None or layer not in changes.layers or last != "weight":
        return p
    if scheme.trains:
        return replace(p, codes=scheme.codes_dtype)
    return Param(p.name, "quantized", p.shape, torch.uint8, False)


def _opened(model: nn.Module, now: list[Param], changes: Changes) -> list[Param]:
    owners = {clean(name): owner(p) for name, p in model.named_parameters()}
    found = []
    for p in (p for p in now if p.role == "quantized"):
        scheme = owners[p.name] or changes.scheme
        shapes = {} if scheme is None else scheme.scale_shapes(p.shape)
        found += [Param(f"{p.name}.{name}", "scales", shape) for name, shape in shapes.items()]
    if not found:
        raise HybridOptError(
            "this policy trains the scales of quantized weights, and there are none: pass "
            f"quantization={frozen_names()}, or give a model that is quantized already"
        )
    return found
