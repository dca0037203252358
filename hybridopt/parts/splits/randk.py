"""Single entries."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.contracts import Density, Draw, Part, Shape, Slot, Split, State, portion, stream
from ...core.errors import HybridOptError
from ...core.numerics.host import send_
from . import _share

__all__ = ["RandK"]


@dataclass(frozen=True)
class RandK(Split):
    """Random single entries are state-full, every entry in its turn (FRUGAL's RandK projection)."""

    density: Density = 0.25
    update_gap: int = 200

    def __post_init__(self) -> None:
        _share.check("RandK", self.density, self.update_gap)

    def at(self, draw: Draw, shape: Shape) -> Part:
        """Return at least one entry; HybridOptError for more than 2**31."""
        density, end = _share.limit(self.density, draw)
        total = math.prod(shape)
        if total > 1 << 31:
            raise HybridOptError(
                f"split='randk' takes up to 2**31 entries; parameter {draw.name!r} has shape {shape}. Use columns"
            )
        return end or Entries(portion(density, total))


@dataclass(frozen=True)
class Entries(Part):
    """`count` entries; two numbers are kept, as indices would cost as much as the weights.

    The entries are positions start ... start + count - 1 of the walk i -> (stride * i) mod n with a stride prime to
    n, which visits every entry once; a new stride is drawn after each round.
    """

    count: int
    disjoint = True

    def shape(self, full: Shape) -> Shape:
        """Return the shape of a vector, [count]."""
        return (self.count,)

    def slots(self, full: Shape) -> dict[str, Slot]:
        """Declare start and stride of the walk, "walk": int64 [2]."""
        return {"walk": Slot((2,), torch.int64, exact=True)}

    def sample(self, grad: Tensor, basis: State, draw: Draw) -> None:
        """Continue the walk of this round.

        Args:
            grad: of the full shape; its values are not read.
            basis: "walk", written in place.
            draw: the random choices of this parameter in this window.
        """
        send_(basis["walk"], torch.tensor(walk(draw, grad.numel(), self.count), device="cpu"))

    def flaw(self, full: Shape, basis: State, window: int) -> str | None:
        """Return what is wrong with "walk" unless it visits every entry of the parameter.

        Args:
            full: shape of the parameter.
            basis: "walk".
            window: not read.
        """
        (start, stride), total = basis["walk"].tolist(), math.prod(full)
        good = 0 <= start < total and 0 < stride <= total and math.gcd(stride, total) == 1
        return None if good else f"walk must be a start below {total} and a stride prime to it, not {start}, {stride}"

    def down(self, x: Tensor, basis: State) -> Tensor:
        """Return the chosen entries of `x`, [count]."""
        return x.flatten().index_select(0, self._index(x, basis))

    def rest(self, x: Tensor, basis: State) -> Tensor:
        """Return `x` with the chosen entries zeroed."""
        return x.flatten().index_fill(0, self._index(x, basis), 0).view(x.shape)

    def up_(self, out: Tensor, x: Tensor, basis: State) -> Tensor:
        """Write the chosen entries to `out`.

        Args:
            out: of the full shape, contiguous, written in place.
            x: the entries, [count].
            basis: "walk".
        """
        flat = out.view(-1).index_copy_(0, self._index(out, basis), x)
        return flat.view(out.shape)

    def _index(self, x: Tensor, basis: State) -> Tensor:
        start, stride = basis["walk"]
        index: Tensor = (start + torch.arange(self.count, device=x.device)) % x.numel() * stride % x.numel()
        return index


def walk(draw: Draw, total: int, count: int) -> tuple[int, int]:
    """Return start and stride of the entries whose turn it is.

    Args:
        draw: the random choices of the parameter in this window.
        total: its entries.
        count: entries of a window.
    """
    windows = -(-total // count)
    key = stream(draw.seed, draw.name, "walk", draw.window // windows)
    stride = 1 + key % total
    while math.gcd(stride, total) != 1:
        stride = 1 + stride % total
    offset = key // total % total
    return (draw.window % windows * count + offset) % total, stride
