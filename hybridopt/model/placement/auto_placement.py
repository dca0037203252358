"""Where the weights of a model rest, told from what they take and from the memory that there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...core.budget import Budget, budget
from ...core.devices import free_bytes
from ...core.errors import HybridOptError
from ...core.host_memory import left
from ...core.sizes import bytes_of, gib
from .placement import Placement
from .storage.ranges import RELAYS

__all__ = ["TRAINING", "LayerBytes", "check_resident", "settled"]

TRAINING = 0.25  # of the device's memory that base="auto" leaves to gradients, states and activations


@dataclass(frozen=True)
class LayerBytes:
    """What the weights of a model take in memory, known before they are read.

    Args:
        layers: bytes of the repeated layers, in their order.
        near: bytes that stay on the device, whatever the placement: the output layer, norms, buffers.
        on_host: bytes that stay on the host and never go to the device, such as an embedding's; 0 for the CPU.
        disk: can the layers be read from files while they are used? Quantized ones need a folder of their own.
    """

    layers: Sequence[int]
    near: int = 0
    on_host: int = 0
    disk: bool = True

    def on_device(self, placement: Placement) -> int:
        """Return the bytes that are on the device at a time, of weights alone."""
        away = self.layers[placement.resident :]
        slots = min(placement.slots, len(away))
        return self.near + sum(self.layers[: placement.resident]) + sum(sorted(away, reverse=True)[:slots])

    def beside(self, placement: Placement) -> int:
        """Return the bytes that are on the host where the device is another one."""
        away = self.layers[placement.resident :]
        relays = RELAYS * max(away, default=0)  # what is read from disk is copied from there
        return self.on_host + (sum(away) if placement.base == "host" else relays)


def settled(
    placement: Placement,
    weights: LayerBytes,
    device: torch.device,
    memory: "str | int | Budget | None" = None,
    host_memory: str | int | None = None,
) -> Placement:
    """Return a placement with nothing left to "auto", once it is known to fit; of base "device" if all weights do.

    "auto" keeps as many layers on the device as leave a share of TRAINING of its memory to training, of which nothing
    is known while a model is loaded; the other layers are on the host, and on disk where that is too small. A
    placement that says itself where weights rest is held against the whole memory.

    Args:
        placement: as it was asked for.
        weights: what they take.
        device: that computes. The CPU has the host's memory.
        memory: of the device that may be taken, as `budget` reads it; None: what is free on it.
        host_memory: that may be taken, a size with a unit or bytes; None: what is free.

    Raises:
        HybridOptError: there are fewer layers than are to stay on the device, or memory is short by so many bytes.
    """
    check_resident(placement, len(weights.layers))
    host = left(Path("/")) if host_memory is None else bytes_of(host_memory, "host_memory")
    there = _of_device(device, memory, host)
    room = _Room(weights, there, host, device.type == "cpu")
    if placement.base != "auto":
        room.check(placement)
        return placement
    return room.nearest(placement)


def check_resident(placement: Placement, layers: int) -> None:
    """Raise HybridOptError where no layer of so many is left to rest elsewhere."""
    if placement.resident >= layers:
        raise HybridOptError(
            f"resident={placement.resident} is not allowed: the model has {layers} layers; give at most {layers - 1}, "
            "or placement='device'",
            "placement",
        )


@dataclass(frozen=True)
class _Room:
    weights: LayerBytes
    device: int | None  # bytes; None: not known, so that everything fits
    host: int | None
    one: bool  # the device has the host's memory

    def nearest(self, placement: Placement) -> Placement:
        weights, usable = self.weights, None if self.device is None else int(self.device * (1 - TRAINING))
        if _missing(weights.near + sum(weights.layers), usable) == 0:
            return placement.but(base="device", resident=0)
        bases = [] if self.one else ["host"]
        for base in [*bases, *(["disk"] if weights.disk else [])]:
            for slots in dict.fromkeys((placement.slots, placement.ahead + 1)):
                found = self._most(placement.but(base=base, slots=max(2, slots)), usable)
                if found is not None:
                    return found
        last = placement.but(base="disk" if weights.disk else "host", slots=max(2, placement.ahead + 1), resident=0)
        lacking = _missing(weights.on_device(last), usable)
        if lacking:
            what = f"{self._sizes(last)}, and {TRAINING:.0%} of it are left to training"
            raise self._short_near(what, lacking)
        self.check(last)
        raise AssertionError("what does not fit is refused")

    def _most(self, placement: Placement, usable: int | None) -> Placement | None:
        """Return a placement with as many layers on the device as fit, at least as many as were asked for."""
        counts = range(len(self.weights.layers) - 1, placement.resident - 1, -1)
        for resident in counts:
            found = placement.but(resident=resident)
            if _missing(self.weights.on_device(found), usable) == 0 and self._missing_beside(found) == 0:
                return found
        return None

    def check(self, placement: Placement) -> None:
        """Raise HybridOptError where the weights alone do not fit."""
        lacking = _missing(self.weights.on_device(placement), self.device)
        if lacking:
            raise self._short_near(self._sizes(placement), lacking)
        lacking = self._missing_beside(placement)
        if lacking:
            what = f"the layers that rest on the host are {gib(self.weights.beside(placement))}"
            cure = "take placement='disk', more resident layers, or a quantization of fewer bits"
            raise self._short(what, "host_memory", lacking, self.host or 0, cure)

    def _missing_beside(self, placement: Placement) -> int:
        return 0 if self.one else _missing(self.weights.beside(placement), self.host)

    def _sizes(self, placement: Placement) -> str:
        whole, near = gib(self.weights.on_device(placement)), gib(self.weights.near)
        return f"slots={placement.slots} and resident={placement.resident} are {whole}, {near} of them other weights"

    def _short_near(self, what: str, lacking: int) -> HybridOptError:
        name = "host_memory" if self.one and self.device == self.host else "memory"
        cure = "take fewer resident layers or slots, a quantization of fewer bits, or a device with more memory"
        return self._short(what, name, lacking, self.device or 0, cure)

    @staticmethod
    def _short(what: str, name: str, lacking: int, there: int, cure: str) -> HybridOptError:
        return HybridOptError(f"{what}: {gib(lacking)} are missing in {name}={gib(there)}; {cure}", "placement")


def _of_device(device: torch.device, memory: "str | int | Budget | None", host: int | None) -> int | None:
    if memory is not None:
        found = budget(memory).usable
        return found if device.type != "cpu" or host is None else min(found, host)
    if device.type == "cpu":
        return host
    return budget(free_bytes(device)).usable


def _missing(wanted: int, there: int | None) -> int:
    return 0 if there is None else max(0, wanted - there)
