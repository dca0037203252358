"""Whether somebody else has written to weights of a unit, or has put other values in their place."""

from collections.abc import Iterable

import torch

from ....core.contracts import Piece, PlacedUnit
from ....core.errors import HybridOptError

__all__ = ["Marks", "refuse_written"]

Mark = tuple[int, int, torch.dtype, torch.Size]


class Marks:
    """What tensors were when they were given their memory.

    Seen are other memory (`p.data = values`) and writes to a parameter itself (`p.mul_(2)`), not writes through its
    `data`, which torch does not count.
    """

    def __init__(self) -> None:
        self._marks: dict[Piece, Mark] = {}

    def set(self, pieces: Iterable[Piece]) -> None:
        """Note what tensors are now."""
        self._marks.update((piece, _mark(piece)) for piece in pieces)

    def forgive(self, piece: Piece) -> None:
        """Forget the last write to a tensor, which has left its values as they were, as `x.set_(x)` does.

        Where it was not the only write, or the tensor has other memory, `changed` returns it as before.
        """
        (version, *there), (now, *here) = self._marks[piece], _mark(piece)
        if there == here and now == version + 1:
            self.set([piece])

    def changed(self, pieces: Iterable[Piece], writes: bool = True) -> list[Piece]:
        """Return those that are not what they were; none within torch.jit.trace, which would note the question.

        Args:
            pieces: the tensors.
            writes: do writes count, too, or other memory alone?
        """
        if torch.jit.is_tracing():
            return []
        return [piece for piece in pieces if piece in self._marks and self._differs(piece, writes)]

    def _differs(self, piece: Piece, writes: bool) -> bool:
        (version, *was), (now, *there) = self._marks[piece], _mark(piece)
        return was != there or (writes and version != now)


def _mark(piece: Piece) -> Mark:
    x = piece.tensor
    return 0 if x.is_inference() else x._version, x.data_ptr(), x.dtype, x.shape


def refuse_written(unit: PlacedUnit, name: str | None = None) -> None:
    """Raise HybridOptError for a weight of a unit on disk that somebody has written to.

    Args:
        unit: the unit.
        name: of the weight; None: not known.
    """
    what = f"a weight of {unit.name!r}" if name is None else repr(name)
    raise HybridOptError(
        f"{what} was written to while it rests on disk, where frozen weights are never written; call "
        "model.hybrid.unwrap() before weights are merged or changed, and load the model without placement to train it",
        "placement",
    )
