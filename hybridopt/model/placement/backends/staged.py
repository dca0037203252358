"""An accelerator computes: weights in the memory of the host are copied to storages that each unit keeps for life.

A storage is emptied and filled again, never handed on: views of weights that operations keep for the backward pass
(`F.linear` keeps `weight.t()`, layers of bitsandbytes keep codes) see the values of their own weight whenever it is
there again. With storages that tensors take turns in, gradients would be wrong without a word.
"""

import warnings
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from ....core.contracts import Piece, PlacedUnit, PlacementBackend, Traffic
from ....core.errors import HybridOptError, HybridOptWarning
from ....core.sizes import gib
from ..lanes.choice import lane_to
from ..lanes.lane import Moment, Pair
from ..placement import Placement
from ..storage.arena import Arena, Layout, whole_pages
from ..streaming.sides import Sides

__all__ = ["Staged"]


class Staged(PlacementBackend):
    """Units rest in page-locked memory of the host and have a storage on the device that is empty meanwhile.

    Args:
        device: that computes. The CPU may stand in for an accelerator: then both sides are buffers of its own.
        traffic: counts what is copied.
        options: unused.
    """

    threaded = False  # copies run by themselves
    poisoned = False  # for tests: memory is filled with NaN where it would be given back

    def __init__(self, device: torch.device, traffic: Traffic, options: Placement):
        self._device, self._traffic = device, traffic
        self.lane = lane_to(device)
        self._told = False  # that page locks are refused
        self._sides: dict[PlacedUnit, Sides] = {}
        self._arenas: dict[PlacedUnit, Arena] = {}

    @staticmethod
    def serves(base: str, device: torch.device) -> bool:
        """Serve weights on the host for accelerators, but those of Apple, which compute in that memory."""
        return base == "host" and device.type not in ("cpu", "mps")

    @staticmethod
    def takes(unit: PlacedUnit) -> int:
        """Return the bytes of a unit's tensors, each of which begins where kernels expect it."""
        return Layout([piece.tensor for piece in unit.pieces]).nbytes

    @staticmethod
    def holds(units: Sequence[PlacedUnit]) -> int:
        """Return the bytes of the arenas of units."""
        return sum(whole_pages(Staged.takes(unit)) for unit in units)

    @property
    def held(self) -> int:
        """Return the bytes of the host that weights rest in."""
        return sum(arena.size for arena in self._arenas.values())

    @property
    def pinned(self) -> int:
        """Return how many of them are page-locked."""
        return sum(arena.size for arena in self._arenas.values() if arena.pinned)

    def adopt(self, unit: PlacedUnit) -> None:
        """Bring every tensor of a unit to the host, wherever it is, and prepare a storage for it on the device."""
        values = [piece.tensor.data for piece in unit.pieces]
        layout = Layout(values)
        arena = self._arenas[unit] = self._arena(layout.nbytes)
        resting = layout.tensors(arena)
        with torch.no_grad():
            for to, value in zip(resting, values, strict=True):
                to.copy_(value)
        self._settle(unit, layout, resting)

    def open(self, unit: PlacedUnit) -> None:
        """Take memory on the device, in the order of what is computed there."""
        sides = self._sides[unit]
        if sides.state == "rests":
            self._take(unit)
            sides.fill()
            sides.users.clear()
            sides.taken, sides.state = self.lane.now(), "open"

    def fetch(self, unit: PlacedUnit) -> None:
        """Begin to copy a unit."""
        memory = self._sides[unit].memory
        self._copy(unit, [(memory, self._arenas[unit].bytes[: memory.numel()])])

    def bind(self, unit: PlacedUnit) -> None:
        """Let whatever is computed next wait for the copy, and every tensor be the one on the device."""
        sides, late = self._sides[unit], self._take(unit)
        self._use(sides, sides.copied)
        sides.state = "near"
        for piece, near, resting in zip(unit.pieces, sides.near, sides.resting, strict=True):
            if piece in late:  # it was written to when the copy had begun
                near.copy_(resting)
            piece.point(near)
        sides.marks.set(unit.pieces)

    def join(self, unit: PlacedUnit) -> None:
        """Let the stream of the caller wait for the copy, and for updates, unless it has."""
        sides = self._sides[unit]
        if self.lane.here() not in sides.joined:
            self.lane.wait(sides.ready)
            self._joined(sides)

    def changed(self, unit: PlacedUnit) -> None:
        """Let all other streams wait for what the caller has asked for."""
        sides = self._sides[unit]
        sides.joined.clear()
        sides.ready = self.lane.now()
        self._joined(sides)
        sides.marks.set(unit.pieces)

    def unchanged(self, unit: PlacedUnit, piece: Piece) -> None:
        """Forget the last write to a tensor, which has left its values as they were."""
        self._sides[unit].marks.forgive(piece)

    def write(self, unit: PlacedUnit, pieces: Sequence[Piece]) -> None:
        """Let the caller be the next to write to what is on the device, which is a copy."""
        self.join(unit)
        self._take(unit)
        self._sides[unit].ahead.update(pieces)

    def keep(self, unit: PlacedUnit, pieces: Sequence[Piece]) -> None:
        """Copy tensors back to the host."""
        self.join(unit)
        sides, wanted = self._sides[unit], set(pieces)
        for piece, resting, near in zip(unit.pieces, sides.resting, sides.near, strict=True):
            if piece in wanted:
                resting.copy_(near)
                self._traffic.returned += near.nbytes
        sides.kept(wanted)

    def rest(self, unit: PlacedUnit) -> None:
        """Let every tensor be the one on the host, and give the memory on the device back."""
        sides = self._sides[unit]
        self._take(unit)
        for piece, resting in zip(unit.pieces, sides.resting, strict=True):
            piece.point(resting)
        sides.marks.set(unit.pieces)
        sides.ahead.clear()
        if sides.state == "coming":  # it was not bound: the memory is still being written
            self._use(sides, sides.copied)
        if sides.state != "rests":
            self.lane.leave(sides.taken, sides.users)
        if sides.filled:
            sides.empty(self.poisoned)
        sides.state = "rests"

    def release(self, unit: PlacedUnit) -> None:
        """Forget the storages of a unit, once nothing is copied any more."""
        sides = self._sides.pop(unit, None)
        self._arenas.pop(unit, None)
        if sides is not None and sides.copied is not None:
            self.lane.finish(sides.copied)

    def __del__(self) -> None:
        with suppress(Exception):  # the interpreter may be on its way out
            for sides in self._sides.values():  # of a model that is gone: others are given its memory from now on
                if sides.state == "coming" and sides.copied is not None:
                    self.lane.finish(sides.copied)

    def _take(self, unit: PlacedUnit) -> list[Piece]:
        """Keep at rest what somebody else has written to tensors, or put in their place; return these."""
        sides = self._sides[unit]
        found = sides.marks.changed(unit.pieces)
        if not found:
            return []
        if sides.state == "near":
            self.join(unit)
        pairs = [(p, x) for p, x in zip(unit.pieces, sides.resting, strict=True) if p in found]
        for piece, resting in pairs:
            self._check_taken(piece, resting, sides)
        with torch.no_grad():
            for piece, resting in pairs:
                if piece.tensor.data_ptr() != resting.data_ptr():
                    resting.copy_(piece.tensor.data)
        sides.marks.set(found)
        return found

    def _check_taken(self, piece: Piece, resting: Tensor, sides: Sides) -> None:
        """Raise HybridOptError for values that cannot be kept in the place of a tensor at rest."""
        x = piece.tensor
        if (x.dtype, x.shape) != (resting.dtype, resting.shape):
            raise HybridOptError(
                f"{piece.name!r} rests on the host as {tuple(resting.shape)}, {resting.dtype}, and was replaced by "
                f"{tuple(x.shape)}, {x.dtype}; load the model so (hybridopt.load(..., dtype=...)), or call "
                "model.hybrid.unwrap() before weights are replaced",
                "placement",
            )
        if piece in sides.ahead:
            raise HybridOptError(
                f"{piece.name!r} was written to while updates of training are outstanding for it, and would lose one "
                "of both; call model.state_dict() first, which makes them all, and write then",
                "placement",
            )

    def _settle(self, unit: PlacedUnit, layout: Layout, resting: list[Tensor]) -> None:
        self._sides[unit] = Sides(layout, resting, self._device)
        self._sides[unit].empty(self.poisoned)
        self.rest(unit)

    def _use(self, sides: Sides, ready: Moment) -> None:
        """Let the caller, and nobody else yet, use the memory of a unit from a moment on; None: after all copies."""
        sides.joined.clear()
        self.lane.wait(ready)
        sides.ready = ready
        self._joined(sides)

    def _joined(self, sides: Sides) -> None:
        here = self.lane.here()
        sides.users.add(here)
        sides.joined.add(here)

    def _copy(self, unit: PlacedUnit, pairs: Sequence[Pair]) -> None:
        sides = self._sides[unit]
        sides.copied, sides.state = None, "coming"  # before it is: an interrupt may come at any line
        sides.copied = self.lane.copy(pairs, sides.taken)
        self._traffic.moved += sum(to.nbytes for to, _ in pairs)

    def _arena(self, size: int, forked: bool = True) -> Arena:
        arena = Arena(size, self.lane, forked)
        if not arena.pinned and not self._told:
            self._told = True
            self._warn()
        return arena

    def _warn(self) -> None:
        warnings.warn(
            f"placement: the system has refused to page-lock memory for weights ({gib(self.pinned)} are locked); what "
            "is not locked is copied about 6.6 times slower, and not beside the computation. Raise `ulimit -l`, or "
            "leave more of the host's memory free",
            HybridOptWarning,
            stacklevel=2,
        )
