"""What carries weights between where they rest and where they are used."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from ..errors import HybridOptError

__all__ = ["Piece", "PlacedUnit", "PlacementBackend", "Traffic"]


@dataclass(eq=False)
class Piece:
    """A tensor that rests elsewhere between its uses: a weight, codes, or constants of codes.

    Args:
        name: in the model; of what hangs on a weight its name with that of the part, such as "absmax".
        weight: name of the parameter that it is, or is a part of.
        tensor: the very object that the model holds, and keeps: only its `data` ever changes.
        file: that holds its values, byte for byte; None: they are in memory alone.
        extent: the bytes in that file.
        also: other tensor objects of the model that share its memory, and always will: layers of 8 bits have such.
        checksum: of its values, where the file says; None: not known.
        crc32: of the bytes in the file, where the file says; None: not known.
    """

    name: str
    weight: str
    tensor: Tensor
    file: Path | None = None
    extent: tuple[int, int] = (0, 0)
    also: tuple[Tensor, ...] = ()
    checksum: int | None = None
    crc32: int | None = None

    def point(self, values: Tensor) -> None:
        """Let the tensor have the memory of another one, of the same shape and dtype, and all that share its own."""
        for x in (self.tensor, *self.also):
            x.data = values

    @property
    def nbytes(self) -> int:
        """Return the bytes of its values."""
        return self.tensor.nbytes


@dataclass(eq=False)
class PlacedUnit:
    """Weights that are fetched and dropped together: those of a layer.

    Args:
        name: of the module in the model.
        module: that computes with them.
        index: its place in the model.
        pieces: its tensors.
    """

    name: str
    module: nn.Module
    index: int
    pieces: list[Piece] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Return the bytes of all its tensors."""
        return sum(piece.nbytes for piece in self.pieces)

    @property
    def tensors(self) -> list[Tensor]:
        """Return all tensor objects of the model that are placed, those that share memory among them."""
        return [x for piece in self.pieces for x in (piece.tensor, *piece.also)]


@dataclass
class Traffic:
    """What was moved so far, in bytes and seconds.

    Args:
        read: bytes read from files.
        moved: bytes copied to the device.
        returned: bytes copied back from the device.
        written: bytes written to files.
        fetches: units that were fetched.
        waited: seconds that the computation waited for fetches.
        fetching: seconds that fetches took, most of them beside the computation.
    """

    read: int = 0
    moved: int = 0
    returned: int = 0
    written: int = 0
    fetches: int = 0
    waited: float = 0.0
    fetching: float = 0.0


class PlacementBackend(Protocol):
    """How units reach the device that computes, and leave it.

    `fetch` is called by one helper thread where that is `threaded`; all others are called by whoever computes, one at
    a time. A unit is adopted once, then opened, fetched, bound and rested again and again. Any of these may fail or be
    interrupted by the user: then the unit is rested, whatever was done of it, if need be again.

    Args:
        device: that computes.
        traffic: counts what is moved.
        options: a Placement.
    """

    threaded: bool = True
    """Does `fetch` take time, so that a helper thread is to call it? Otherwise it begins what runs by itself."""

    keeps_memory: bool = False
    """Do tensors keep their memory while they rest, so that what operations have kept of them is right at any time?"""

    @staticmethod
    @abstractmethod
    def serves(base: str, device: Any) -> bool:
        """Return whether weights that rest at `base` ("host" or "disk") are carried to a torch.device in this way."""

    @staticmethod
    def takes(unit: PlacedUnit) -> int:
        """Return the bytes that a fetch of a unit brings near, which are those that it takes there."""
        return unit.nbytes

    @staticmethod
    def holds(units: Sequence[PlacedUnit]) -> int:
        """Return the bytes of the host's memory that all units take, at rest and on their way."""
        return 0

    @abstractmethod
    def __init__(self, device: Any, traffic: Traffic, options: Any):
        """Make one for a model."""

    @abstractmethod
    def adopt(self, unit: PlacedUnit) -> None:
        """Bring the tensors of a unit to where they rest."""

    def open(self, unit: PlacedUnit) -> None:
        """Take the memory in which a unit is going to be near, just before it is fetched."""

    @abstractmethod
    def fetch(self, unit: PlacedUnit) -> None:
        """Bring a unit near, as far as that can be done beside the computation; raise what went wrong."""

    @abstractmethod
    def bind(self, unit: PlacedUnit) -> None:
        """Let the tensors of a fetched unit be used by whatever is computed next."""

    def join(self, unit: PlacedUnit) -> None:
        """Let the caller compute with a unit that is near, whoever has brought it there; called at each of its uses.

        Raises:
            HybridOptError: what it is a view of has changed.
        """
        return None

    def changed(self, unit: PlacedUnit) -> None:
        """Note that the caller has written to tensors of a unit that is near: others see that when they join."""
        return None

    def unchanged(self, unit: PlacedUnit, piece: Piece) -> None:
        """Note that the last write that torch counts of a tensor has left its values as they were, as `x.set_(x)`."""
        return None

    def write(self, unit: PlacedUnit, pieces: Sequence[Piece]) -> None:
        """Let some tensors of a unit that is near be written, by taking memory that nothing else reads.

        What is written is gone when the unit rests, unless it is kept.
        """
        raise HybridOptError(f"{type(self).__name__} carries weights that nobody changes; train adapters")

    def spend(self, pieces: Sequence[Piece]) -> None:
        """Raise HybridOptError if to keep some tensors were to write more to a drive than it is to endure in a day."""
        return None

    def keep(self, unit: PlacedUnit, pieces: Sequence[Piece]) -> None:
        """Let some tensors of a unit that is near have at rest the values that they have now."""
        raise HybridOptError(f"{type(self).__name__} carries weights that nobody changes; train adapters")

    @abstractmethod
    def rest(self, unit: PlacedUnit) -> None:
        """Take the memory of a unit back; its tensors hold true values where they rest."""

    def unlock(self, unit: PlacedUnit) -> None:
        """Let whoever has the tensors of a unit write to them where they rest, once it is given up.

        Raises:
            HybridOptError: it has to do without.
        """
        return None

    @abstractmethod
    def release(self, unit: PlacedUnit) -> None:
        """Give a unit up: its tensors become ordinary ones, where they rest."""
