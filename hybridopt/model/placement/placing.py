"""How the layers of a model come to rest elsewhere."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ...core.contracts import PlacedUnit, PlacementBackend, Traffic
from ...core.errors import HybridOptError
from ...core.files.mapping import Extent
from ...core.registry import every_class
from .guarding.added_adapters import moved_
from .placed import Placed, placed
from .placement import Placement
from .streaming.streamer import Streamer
from .units import small_parts, units

__all__ = ["Placing", "Stored", "backend_for", "place_"]

Stored = Mapping[str, tuple[Path, Extent]]  # by the name of a tensor: the file and the bytes that hold its values


class Placing:
    """A model whose layers come to rest one after the other, each as soon as it has its values.

    Args:
        model: its values need not be there yet.
        placement: where to; "host" or "disk".
        device: that computes.
        backend: that carries the units; None: the one that serves this device.

    Raises:
        HybridOptError: the model is placed already, or nothing serves the device.
    """

    def __init__(
        self,
        model: nn.Module,
        placement: Placement,
        device: torch.device,
        backend: type[PlacementBackend] | None = None,
    ):
        if placed(model) is not None:
            raise HybridOptError(
                f"{type(model).__name__} is placed already; call model.hybrid.unwrap(), or load it anew"
            )
        self._model, self._placement, self._device = model, placement, device
        self._traffic, self._units = Traffic(), list[PlacedUnit]()
        kind = backend_for(placement, device) if backend is None else backend
        self._carrier = kind(device, self._traffic, placement)

    def rest(self, unit: PlacedUnit, stored: Stored | None = None) -> None:
        """Let a unit rest from now on; what `stored` names is not read, wherever its tensors are."""
        for piece in unit.pieces:
            piece.file, piece.extent = (stored or {}).get(piece.name, (None, (0, 0)))
        self._carrier.adopt(unit)
        moved_(small_parts(unit), self._device)
        self._units.append(unit)

    def finish(self) -> Placed:
        """Let the units that rest be fetched whenever they are used."""
        found = sorted(self._units, key=lambda unit: unit.index)
        streamer = Streamer(found, self._carrier, self._placement, self._traffic)
        return Placed(self._model, self._placement, self._device, streamer)


def place_(
    model: nn.Module,
    placement: Placement,
    device: torch.device,
    stored: Stored | None = None,
    found: list[PlacedUnit] | None = None,
    backend: type[PlacementBackend] | None = None,
) -> Placed:
    """Let the layers of a model rest elsewhere from now on, and be fetched when they are used.

    Args:
        model: with its values, wherever they are; of what `stored` names no values are read.
        placement: where to; "host" or "disk".
        device: that computes.
        stored: which files hold which tensors, by name.
        found: its units; None: they are found here.
        backend: that carries them; None: the one that serves this device.
    """
    placing = Placing(model, placement, device, backend)
    for unit in units(model, placement.resident) if found is None else found:
        placing.rest(unit, stored)
    return placing.finish()


def backend_for(placement: Placement, device: torch.device) -> type[PlacementBackend]:
    """Return what carries the weights of a model to a device; raise HybridOptError where nothing does."""
    for kind in every_class("placement_backends"):
        if kind.serves(placement.base, device):
            return kind
    raise HybridOptError(
        f"placement={placement.base!r} is not known for device={str(device)!r}: what the CPU computes with, and "
        "GPUs of Apple, is in the host's memory anyway; take placement='disk' for the CPU, or another GPU"
    )
