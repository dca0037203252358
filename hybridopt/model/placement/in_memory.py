"""Models that are in memory already: their layers go to the host, or into files of a cache."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...core.contracts import PlacedUnit
from ...core.errors import HybridOptError
from ..checksums import checksum
from .auto_placement import LayerBytes, check_resident, settled
from .placed import placed
from .placement import Placement
from .placing import Stored, backend_for, place_
from .storage.unit_files import UnitFiles
from .streaming.rows import aside
from .units import layer_names, units

__all__ = ["Settled", "place_in_memory_", "settle"]


@dataclass(frozen=True)
class Settled:
    """Where the layers of a model are going to rest, and what computes with them.

    Args:
        placement: with nothing left to "auto".
        device: that computes.
    """

    placement: Placement
    device: torch.device


def settle(model: nn.Module, placement: Placement | None) -> Settled | None:
    """Return what is done to place a model, once it is known that it can be; None: nothing is.

    Args:
        model: with its values, on any device; it is not changed.
        placement: as it was asked for; None: it was not.

    Raises:
        HybridOptError: the model is placed already, has no repeated layers, or has no room where they are to rest.
    """
    if placement is None:
        return None
    if placed(model) is not None:
        raise HybridOptError(
            f"placement={placement.base!r} is not allowed: {type(model).__name__} is placed already, by "
            "hybridopt.load; leave placement out here, or load the model with another one",
            "wrap",
        )
    layers = layer_names(model)
    device = _device(model, placement)
    if placement.base == "auto":
        placement = settled(placement, _weights(model, layers, placement, device), device)
        if placement.base == "device":
            return None
    check_resident(placement, len(layers))
    backend_for(placement, device)
    if placement.base == "disk" and placement.cache is None:
        raise HybridOptError(
            "placement='disk' writes the layers of a model that is in memory to a folder: give "
            "hybridopt.Placement('disk', cache=FOLDER), or load the model by hybridopt.load(folder, "
            "placement='disk'), which reads its own files",
            "wrap",
        )
    return Settled(placement, device)


def place_in_memory_(model: nn.Module, settled: Settled) -> None:
    """Let the layers of a model rest where it was settled; all else goes to the device that computes.

    Args:
        model: with its values; quantized, if it is to be.
        settled: by `settle`.
    """
    placement, device = settled.placement, settled.device
    found = units(model, placement.resident)
    stored = None if placement.base != "disk" or placement.cache is None else _kept(found, placement.cache)
    place_(model, placement, device, stored, found)
    model.to(device)


def _device(model: nn.Module, placement: Placement) -> torch.device:
    here = next(model.parameters()).device
    if here.type == "cpu" and placement.base in ("host", "auto") and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return here


def _weights(model: nn.Module, layers: list[str], placement: Placement, device: torch.device) -> LayerBytes:
    sizes = [sum(p.nbytes for p in model.get_submodule(name).parameters()) for name in layers]
    table = aside(model, device)
    on_host = 0 if table is None else model.get_parameter(table).nbytes
    near = sum(p.nbytes for p in model.parameters()) - sum(sizes) - on_host
    return LayerBytes(sizes, near, on_host, disk=placement.cache is not None)


def _kept(found: list[PlacedUnit], cache: Any) -> Stored:
    """Return file and bytes of all tensors of units, which are written where they are not there yet.

    Layers are known by the checksums of what they hold, so that another base has other files.
    """
    marks = {piece.name: _mark(piece.tensor) for unit in found for piece in unit.pieces}
    files = UnitFiles(cache, {"in memory": hashlib.sha256(json.dumps(marks, sort_keys=True).encode()).hexdigest()})
    stored: dict[str, Any] = {}
    with files.alone():
        there = {unit: files.find(unit.name) for unit in found}
        files.room(sum(unit.nbytes for unit, held in there.items() if held is None))
        for unit, held in there.items():
            held = held or files.write(unit.name, {piece.name: piece.tensor.detach() for piece in unit.pieces})
            stored |= {name: (each.file, each.extent) for name, each in held.items()}
    return stored


def _mark(x: Tensor) -> list[Any]:
    return [list(x.shape), str(x.dtype), checksum(x.detach()) if x.numel() else 0]
