"""What the tensors of a model take once they are loaded, before any is read."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch

from ...core.contracts import PlacedUnit, Scheme
from ..placement.auto_placement import LayerBytes
from ..quantization.layers import is_named
from .matching import shared_names

__all__ = ["tensor_bytes", "weights_of"]


def tensor_bytes(
    model: Any, dtypes: Mapping[str, torch.dtype], scheme: Scheme | None = None, layers: Collection[str] = ()
) -> dict[str, int]:
    """Return the bytes of every tensor of a state dict by name; tied ones count under their first name alone.

    Args:
        model: on the meta device, before it is quantized.
        dtypes: of its tensors once they are filled in, by name.
        scheme: what `layers` are quantized with.
        layers: names of the weights to quantize.
    """
    state, sizes = model.state_dict(), {}
    for name, *_ in shared_names(model):
        shape = tuple(state[name].shape)
        coded = scheme is not None and is_named(name, layers)
        sizes[name] = scheme.nbytes(shape) if coded else math.prod(shape) * dtypes[name].itemsize  # type: ignore[union-attr]
    return sizes


def weights_of(
    found: Collection[PlacedUnit], sizes: Mapping[str, int], disk: bool, table: str | None = None
) -> LayerBytes:
    """Return what a model takes near and where its layers rest.

    Args:
        found: all its layers.
        sizes: bytes of its tensors by name.
        disk: can its layers be read from files while they are used?
        table: name of the tensor that stays on the host; None: there is none.
    """
    layers = [sum(sizes[piece.weight] for piece in unit.pieces) for unit in found]
    on_host = 0 if table is None else sizes[table]
    return LayerBytes(layers, near=sum(sizes.values()) - sum(layers) - on_host, on_host=on_host, disk=disk)
