"""Where a tensor of a model belongs: to which unit, if it rests elsewhere."""

import weakref
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ...core.contracts import Piece, PlacedUnit
from ...core.errors import HybridOptError
from ..fsdp.sharded_tensors import write_
from .placement import Placement
from .streaming.pending_updates import Update
from .streaming.streamer import Streamer

__all__ = [
    "Home",
    "all_near",
    "assign",
    "bring_home",
    "check_kept",
    "device_of",
    "devices_of",
    "forget",
    "home",
    "near",
]

_HOMES = WeakIdKeyDictionary()  # by tensor: its Home


class Owner(Protocol):
    """A placed model, as the homes of its tensors know it."""

    placement: Placement
    device: torch.device
    streamer: Streamer

    def need(self, unit: PlacedUnit) -> None:
        """Let a unit be computed with."""

    def read(self) -> None:
        """Let every weight have its true values."""


class Home:
    """Where one tensor belongs.

    Args:
        piece: the tensor.
        unit: that it is fetched with.
        placed: the model's placement.
    """

    def __init__(self, piece: Piece, unit: PlacedUnit, placed: Owner):
        self._piece, self._unit, self._placed = weakref.ref(piece), weakref.ref(unit), weakref.ref(placed)
        self.device = placed.device

    @property
    def lasts(self) -> bool:
        """Return whether its model is still there."""
        return self._placed() is not None and self._unit() is not None

    @property
    def name(self) -> str:
        """Return the name of the tensor in the model."""
        return self._found(self._piece).name

    @property
    def module(self) -> nn.Module:
        """Return the layer that the tensor is fetched with."""
        found: nn.Module = self._found(self._unit).module
        return found

    @property
    def placement(self) -> Placement:
        """Return how the model is placed."""
        return self._found(self._placed).placement

    def fetch(self) -> None:
        """Bring the tensor near, with all updates; others go in its place."""
        self._found(self._placed).need(self._found(self._unit))

    def later(self, update: Update, step: int) -> None:
        """Make an update of the tensor when it is near; see `Outstanding.note`.

        Args:
            update: makes it.
            step: that it is of.
        """
        streamer = self._found(self._placed).streamer
        streamer.outstanding.note(self._found(self._unit), self._found(self._piece), update, step)

    def assign(self, values: Tensor) -> None:
        """Give the tensor other values, at rest as well; others are fetched in its place afterwards."""
        found, unit, piece = (self._found(each) for each in (self._placed, self._unit, self._piece))
        found.read()
        found.streamer.replace(unit, piece, values)

    def written(self) -> None:
        """Take what the tensor is now for its values, if it is near."""
        self._found(self._placed).streamer.written(self._found(self._unit))

    def unchanged(self) -> None:
        """Take the last write to the tensor for one that has left its values as they were."""
        streamer = self._found(self._placed).streamer
        streamer.unchanged(self._found(self._unit), self._found(self._piece))

    @staticmethod
    def _found(reference):
        found = reference()
        assert found is not None  # `home` gives none of a model that is gone
        return found


def bring_home(unit: PlacedUnit, placed: Owner) -> None:
    """Note where the tensors of a unit belong."""
    for piece in unit.pieces:
        _HOMES[piece.tensor] = Home(piece, unit, placed)


def forget(units: Iterable[PlacedUnit]) -> None:
    """Forget where the tensors of units belong: they are ordinary ones now."""
    for unit in units:
        for piece in unit.pieces:
            _HOMES.pop(piece.tensor, None)


def home(p: Tensor) -> Home | None:
    """Return where a tensor belongs; None of one that does not rest elsewhere."""
    found: Home | None = _HOMES.get(p) if _HOMES else None
    return found if found is not None and found.lasts else None


def all_near() -> bool:
    """Return whether no tensor of any model rests elsewhere."""
    return not _HOMES


def device_of(p: Tensor) -> torch.device:
    """Return the device that computes with a tensor, wherever it is now."""
    found = home(p)
    return p.device if found is None else found.device


def devices_of(tensors: Sequence[Tensor]) -> list[torch.device]:
    """Return what `device_of` does of each, without a call for those that do not rest elsewhere."""
    if not _HOMES:
        return [p.device for p in tensors]
    return [device_of(p) if p in _HOMES else p.device for p in tensors]


def check_kept(name: str, p: Tensor, why: str) -> None:
    """Raise HybridOptError for a tensor that rests in a file and has no place for other values.

    Args:
        name: of the tensor.
        p: the tensor.
        why: it is going to have others, as the end of a sentence that begins with its name.
    """
    found = home(p)
    if found is not None and found.placement.base == "disk" and found.placement.cache is None:
        raise HybridOptError(
            f"{name!r} rests on disk, in a file that is never written, and {why}: name a folder on a drive with room "
            "for such weights, placement=hybridopt.Placement('disk', cache='folder')",
            "placement",
        )


def assign(p: Tensor, values: Tensor) -> None:
    """Write the values of a whole tensor to another one, wherever it rests; of a sharded one to this rank's part."""
    found = home(p)
    if found is None:
        write_(p, values)
    else:
        found.assign(values)


def near(p: Tensor) -> Tensor:
    """Return a tensor with its values, which are fetched, with all updates, if it rests elsewhere."""
    if (found := home(p)) is not None:
        found.fetch()
    return p
