"""A low-rank subspace of a matrix, with an orthonormal basis."""

from dataclasses import dataclass

import torch

from ...core.contracts import Draw, Shape, Slot, portion
from ...core.errors import HybridOptError
from . import _share

__all__ = ["SIDES", "Subspace", "subspace"]

SIDES = ("std", "reverse_std", "left", "right")


def subspace(split, owner: str, draw: Draw, shape: Shape):
    """The part of a split with `density`, `side`, and a choice of leading or random directions."""
    rows, cols = _share.matrix(owner, draw, shape)
    density, end = _share.limit(split.density, draw)
    right = {"std": rows >= cols, "reverse_std": rows < cols, "left": False, "right": True}[split.side]
    return end or Subspace(portion(density, cols if right else rows), right, owner == "svd")


@dataclass(frozen=True)
class Subspace:
    """`rank` orthonormal directions Q on one side: down(x) = x Q (right, [..., m, r]) or Q^T x (left, [..., r, n])."""

    rank: int
    right: bool
    leading: bool  # the gradient's leading singular directions, or random ones
    disjoint = False
    covers = False
    carries = False

    @property
    def local(self):
        """Rows are projected one by one on the right side."""
        return self.right

    def shape(self, full):
        """[..., m, r] or [..., r, n]."""
        return (*full[:-1], self.rank) if self.right else (*full[:-2], self.rank, full[-1])

    def slots(self, full):
        """The basis, float [..., side, rank]."""
        return {"basis": Slot((*full[:-2], full[-1 if self.right else -2], self.rank), exact=True)}

    def sample(self, grad, basis, draw):
        """From the gradient's singular vectors, or from the QR factor of a Gaussian matrix."""
        old = basis["basis"]
        q = self._leading(grad.to(old.dtype), draw.name) if self.leading else self._random(old, draw)
        old.copy_(q)

    def down(self, x, basis):
        """Coordinates in the subspace."""
        q = basis["basis"]
        return x @ q if self.right else q.mT @ x

    def rest(self, x, basis):
        """What lies outside the subspace."""
        return x - self._lift(self.down(x, basis), basis)

    def up_(self, out, x, basis):
        """Back to the full shape."""
        return out.add_(self._lift(x, basis))

    def first(self, like, basis):
        """The leading direction for a gradient like this, [..., side]."""
        return basis["basis"][..., 0]

    def _lift(self, x, basis):
        q = basis["basis"]
        return x @ q.mT if self.right else q @ x

    def _leading(self, grad, name):
        u, _, vh = _svd(grad, name, full=self.rank > min(grad.shape[-2:]))
        return vh[..., : self.rank, :].mT if self.right else u[..., : self.rank]

    def _random(self, like, draw):
        generator = draw.generator("subspace", draw.window)
        normal = torch.randn(like.shape, generator=generator, dtype=torch.float32)
        q, r = torch.linalg.qr(normal.to(like.dtype))
        return q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def _svd(grad, name, full):
    for dtype in (grad.dtype, torch.float64):
        try:
            return torch.linalg.svd(grad.to(dtype), full_matrices=full)
        except torch.linalg.LinAlgError:
            continue
    raise HybridOptError(
        f"the singular value decomposition of the gradient of {name!r} did not converge; use split='random'"
    )
