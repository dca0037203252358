"""Some columns or rows of a parameter, by index."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.contracts import Draw, Part, Shape, Slot, State, computed
from ...core.numerics.host import send_

__all__ = ["Lines"]


@dataclass(frozen=True)
class Lines(Part):
    """`count` lines of a parameter along `dim` (negative), visited in turns."""

    dim: int
    count: int
    sizes = ("count",)
    disjoint = True

    @computed
    def local(self) -> bool:
        """Return whether the lines are columns, which can be taken from any slice of rows."""
        return self.dim == -1

    @computed
    def columns(self) -> str:
        """Return the slot of the indices where the lines are columns."""
        return "index" if self.dim == -1 else ""

    def shape(self, full: Shape) -> Shape:
        """Return the full shape with `count` along `dim`."""
        at = len(full) + self.dim
        return (*full[:at], self.count, *full[at + 1 :])

    def slots(self, full: Shape) -> dict[str, Slot]:
        """Declare the indices, "index": int64 [count]."""
        return {"index": Slot((self.count,), torch.int64, exact=True)}

    def sample(self, grad: Tensor, basis: State, draw: Draw) -> None:
        """Choose the lines whose turn it is.

        Args:
            grad: of the full shape; its values are not read.
            basis: "index", written in place.
            draw: the random choices of this parameter in this window.
        """
        send_(basis["index"], draw.turn(grad.shape[self.dim], self.count))

    def flaw(self, full: Shape, basis: State, window: int) -> str | None:
        """Return what is wrong with "index" unless it has lines of the parameter, each once, in rising order.

        Args:
            full: shape of the parameter.
            basis: "index".
            window: not read.
        """
        index, most = basis["index"], full[self.dim]
        inside = bool(((index >= 0) & (index < most)).all())
        return None if inside and bool((index.diff() > 0).all()) else f"index must be rising, from 0 to {most - 1}"

    def down(self, x: Tensor, basis: State) -> Tensor:
        """Return the chosen lines of `x`, copied."""
        return x.index_select(self.dim, basis["index"])

    def rest(self, x: Tensor, basis: State) -> Tensor:
        """Return `x` with the chosen lines zeroed: nothing leaks into the state-free part."""
        return x.index_fill(self.dim, basis["index"], 0)

    def up_(self, out: Tensor, x: Tensor, basis: State) -> Tensor:
        """Write the chosen lines to `out`.

        Args:
            out: of the full shape, written in place.
            x: the lines.
            basis: "index".
        """
        return out.index_copy_(self.dim, basis["index"], x)
