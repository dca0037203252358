"""Updates that were decided, and are made when their weights are near.

A step of training by losses alone is a few numbers and seeds, from which the update of any weight follows at any
time. So weights that rest elsewhere are not fetched for it: whoever computes with them next finds them updated. They
are written where they rest only now and then; until then the same updates are made again whenever they are fetched.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ....core.contracts import Piece, PlacedUnit, PlacementBackend
from ....core.errors import HybridOptError, HybridOptWarning
from ..placement import Placement
from ..storage.drive_endurance import Endurance

__all__ = ["MOST", "Outstanding", "Update", "outstanding_for"]

MOST = 256  # steps whose updates may wait: each fetch makes all of them again, and each is kept in memory
Update = Callable[[], None]


@dataclass
class _Waiting:
    """What is outstanding for a unit.

    Args:
        written: the step after which it was written, or is taken to have been.
        pieces: the tensors that updates are of.
        updates: in the order of the steps.
        done: how many of them its tensors have, as they are near.
        writing: were values at rest being replaced, and is it not known whether all were?
    """

    written: int
    pieces: dict[Piece, None] = field(default_factory=dict)
    updates: list[Update] = field(default_factory=list)
    done: int = 0
    writing: bool = False


class Outstanding:
    """The updates of the units of a model that are yet to be made.

    Units are written in turn, not all in one step.

    Args:
        backend: carries the units.
        every: steps after which what was updated is written; None: when `keep` is called, or `MOST` steps wait.
        spend: is told how many bytes are about to be written as it is time to, and raises where they are too many.
    """

    def __init__(self, backend: PlacementBackend, every: int | None, spend: Callable[[int], None] = lambda size: None):
        self._backend, self._every, self._spend = backend, every or MOST, spend
        self._asked = every is not None  # for what is written after some steps
        self._waiting: dict[PlacedUnit, _Waiting] = {}
        self._steps, self._step = 0, -1

    def note(self, unit: PlacedUnit, piece: Piece, update: Update, step: int) -> None:
        """Note an update, which writes to the `data` of a tensor and depends on nothing that may change until then.

        Args:
            unit: that the tensor belongs to.
            piece: the tensor.
            update: makes it.
            step: that it is of.
        """
        if step != self._step:
            self._steps, self._step = self._steps + 1, step
        if unit not in self._waiting:
            turn = unit.index % self._every
            self._waiting[unit] = _Waiting(-turn if self._asked else turn)
        self._waiting[unit].pieces[piece] = None
        self._waiting[unit].updates.append(update)

    def __bool__(self) -> bool:
        """Return whether anything is outstanding."""
        return any(w.updates for w in self._waiting.values())

    def units(self) -> list[PlacedUnit]:
        """Return the units whose values at rest are not the true ones, in the order of the model."""
        return sorted((unit for unit, w in self._waiting.items() if w.updates), key=lambda unit: unit.index)

    def lacks(self, unit: PlacedUnit) -> bool:
        """Return whether a unit that is near does not have all updates yet."""
        w = self._waiting.get(unit)
        return w is not None and w.done < len(w.updates)

    def apply(self, unit: PlacedUnit) -> None:
        """Make the updates that a unit that is near does not have yet; after an error it must be dropped."""
        w = self._waiting[unit]
        with torch.inference_mode(False), torch.no_grad():
            self._backend.write(unit, list(w.pieces))
            devices = {piece.tensor.device.type for piece in w.pieces}
            with torch.autocast(devices.pop(), enabled=False):
                for update in w.updates[w.done :]:
                    update()
        w.done = len(w.updates)

    def leave(self, unit: PlacedUnit, stays: bool = False) -> None:
        """Write a unit that is near, if that is due.

        Args:
            unit: the unit.
            stays: is it not about to be dropped? Then it is written rarely, lest ever more updates are kept for it.
        """
        w = self._waiting.get(unit)
        if w is None or not w.done:
            return
        due = self._steps - w.written >= (max(self._every, MOST) if stays else self._every)
        if due and not w.writing:
            self._spend(sum(piece.nbytes for piece in w.pieces))
            self._tell()
        if due or w.writing:
            self.keep(unit)

    def _tell(self) -> None:
        """Warn once of what is written though nobody has asked for it."""
        if self._asked:
            return
        self._asked = True
        warnings.warn(
            f"write_every=None: updates of {MOST} steps wait for the layers, and all are made again whenever a layer "
            f"is fetched; so layers are written where they rest now, and every {MOST} steps from now on. Give "
            "write_every=8, or save more often",
            HybridOptWarning,
            stacklevel=2,
        )

    def keep(self, unit: PlacedUnit) -> None:
        """Let the values of a unit that is near be those at rest, too; after an interrupt it has to be done again."""
        w = self._waiting[unit]
        if not w.done:
            return
        if not w.writing:
            self._backend.spend(list(w.pieces))
        w.writing = True
        with torch.inference_mode(False), torch.no_grad():
            self._backend.keep(unit, list(w.pieces))
        rest = w.updates[w.done :]
        self._waiting[unit] = _Waiting(self._steps, dict(w.pieces) if rest else {}, rest)

    def dropped(self, unit: PlacedUnit) -> None:
        """Note that a unit has its values at rest again.

        Raises:
            HybridOptError: an interrupt has left them half written.
        """
        w = self._waiting.get(unit)
        if w is None:
            return
        w.done = 0
        if w.writing:
            raise HybridOptError(
                f"the weights of {unit.name!r} were being written when an error occurred, and are neither the old nor "
                "the new ones: load the model from the last checkpoint"
            )


def outstanding_for(backend: PlacementBackend, placement: Placement) -> Outstanding:
    """Return what keeps the updates of a model; on disk what is written counts against what a drive endures."""
    spend = [Endurance(placement).spend] if placement.base == "disk" else []
    return Outstanding(backend, placement.write_every, *spend)
