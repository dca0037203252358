"""Single entries."""

import math
from dataclasses import dataclass

import torch

from ...core.contracts import Density, Draw, Slot, portion, stream
from ...core.errors import HybridOptError
from . import _share

__all__ = ["RandK"]


@dataclass(frozen=True)
class RandK:
    """Random single entries are state-full, every entry in its turn (FRUGAL's RandK projection)."""

    density: Density = 0.25
    update_gap: int = 200

    def __post_init__(self):
        _share.check("RandK", self.density, self.update_gap)

    def at(self, draw, shape):
        """At least one entry."""
        density, end = _share.limit(self.density, draw)
        total = math.prod(shape)
        if total > 1 << 31:
            raise HybridOptError(
                f"split='randk' takes up to 2**31 entries; parameter {draw.name!r} has shape {shape}. Use columns"
            )
        return end or Entries(portion(density, total))


@dataclass(frozen=True)
class Entries:
    """`count` entries; two numbers are kept, as indices would cost as much as the weights.

    The entries are positions start ... start + count - 1 of the walk i -> (stride * i) mod n with a stride prime to
    n, which visits every entry once; a new stride is drawn after each round.
    """

    count: int
    local = False
    disjoint = True
    covers = False
    carries = False

    def shape(self, full):
        """A vector."""
        return (self.count,)

    def slots(self, full):
        """Start and stride of the walk."""
        return {"walk": Slot((2,), torch.int64, exact=True)}

    def sample(self, grad, basis, draw):
        """Continue the walk of this round."""
        basis["walk"].copy_(torch.tensor(walk(draw, grad.numel(), self.count)))

    def down(self, x, basis):
        """The chosen entries."""
        return x.flatten().index_select(0, self._index(x, basis))

    def rest(self, x, basis):
        """`x` with the chosen entries zeroed."""
        return x.flatten().index_fill(0, self._index(x, basis), 0).view(x.shape)

    def up_(self, out, x, basis):
        """Write the chosen entries; `out` is contiguous."""
        return out.view(-1).index_copy_(0, self._index(out, basis), x).view(out.shape)

    def _index(self, x, basis):
        start, stride = basis["walk"]
        return (start + torch.arange(self.count, device=x.device)) % x.numel() * stride % x.numel()


def walk(draw: Draw, total: int, count: int) -> tuple[int, int]:
    """Start and stride of the entries whose turn it is."""
    windows = -(-total // count)
    key = stream(draw.seed, draw.name, "walk", draw.window // windows)
    stride = 1 + key % total
    while math.gcd(stride, total) != 1:
        stride = 1 + stride % total
    offset = key // total % total
    return (draw.window % windows * count + offset) % total, stride
