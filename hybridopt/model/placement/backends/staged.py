"""An accelerator computes: weights in the memory of the host are copied to storages that each tensor keeps for life.

A storage is emptied and filled again, never handed on: views of weights that operations keep for the backward pass
(`F.linear` keeps `weight.t()`, layers of bitsandbytes keep codes) see the values of their own weight whenever it is
there again. With storages that tensors take turns in, gradients would be wrong without a word.
"""

import torch
from torch import Tensor

from ....core.contracts import PlacedUnit, PlacementBackend, Traffic
from ..placement import Placement

__all__ = ["Staged"]


class Staged(PlacementBackend):
    """Tensors rest on the host and have a storage on the device that is empty meanwhile.

    Args:
        device: that computes. The CPU may stand in for an accelerator: then both sides are buffers of its own.
        traffic: counts what is copied.
        options: unused.
    """

    def __init__(self, device: torch.device, traffic: Traffic, options: Placement):
        self._device, self._traffic = device, traffic
        self._sides: dict[PlacedUnit, list[tuple[Tensor, Tensor, Tensor]]] = {}  # tensor, on the host, on the device

    @staticmethod
    def serves(base: str, device: torch.device) -> bool:
        """Serve weights on the host for accelerators."""
        return base == "host" and device.type != "cpu"

    def adopt(self, unit: PlacedUnit) -> None:
        """Bring every tensor of a unit to the host, and make an empty storage for it on the device."""
        sides = self._sides[unit] = []
        for piece in unit.pieces:
            host = piece.tensor.data.to("cpu", copy=True).contiguous()
            there = torch.empty_like(host, device=self._device)
            there.untyped_storage().resize_(0)
            sides.append((piece.tensor, host, there))
            piece.tensor.data = host

    def fetch(self, unit: PlacedUnit) -> None:
        """Fill the storages of a unit."""
        for _, host, there in self._sides[unit]:
            there.untyped_storage().resize_(host.nbytes)
            with torch.no_grad():
                there.copy_(host)
            self._traffic.moved += host.nbytes

    def bind(self, unit: PlacedUnit) -> None:
        """Let every tensor be the one on the device."""
        for tensor, _, there in self._sides[unit]:
            tensor.data = there

    def rest(self, unit: PlacedUnit) -> None:
        """Let every tensor be the one on the host, and empty the storages."""
        for tensor, host, there in self._sides[unit]:
            tensor.data = host
            there.untyped_storage().resize_(0)

    def release(self, unit: PlacedUnit) -> None:
        """Forget the storages of a unit."""
        self._sides.pop(unit, None)
