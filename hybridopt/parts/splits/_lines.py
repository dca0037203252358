"""Some columns or rows of a parameter, by index."""

from dataclasses import dataclass

import torch

from ...core.contracts import Slot

__all__ = ["Lines"]


@dataclass(frozen=True)
class Lines:
    """`count` lines of a parameter along `dim` (negative), visited in turns."""

    dim: int
    count: int
    sizes = ("count",)
    disjoint = True
    covers = False
    carries = False

    @property
    def local(self):
        """Columns can be taken from any slice of rows."""
        return self.dim == -1

    def shape(self, full):
        """The full shape with `count` along `dim`."""
        at = len(full) + self.dim
        return (*full[:at], self.count, *full[at + 1 :])

    def slots(self, full):
        """The indices, int64 [count]."""
        return {"index": Slot((self.count,), torch.int64, exact=True)}

    def sample(self, grad, basis, draw):
        """The lines whose turn it is."""
        basis["index"].copy_(draw.turn(grad.shape[self.dim], self.count))

    def down(self, x, basis):
        """The chosen lines."""
        return x.index_select(self.dim, basis["index"])

    def rest(self, x, basis):
        """`x` with the chosen lines zeroed: nothing leaks into the state-free part."""
        return x.index_fill(self.dim, basis["index"], 0)

    def up_(self, out, x, basis):
        """Write the chosen lines."""
        return out.index_copy_(self.dim, basis["index"], x)
