"""A low-rank subspace of a matrix, with an orthonormal basis."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...core.contracts import Density, Draw, Part, Shape, Slot, State, computed, portion, stream
from ...core.errors import HybridOptError
from . import _iteration, _share
from ._projection import Projection
from .empty import Empty
from .whole import Whole

__all__ = ["SIDES", "SOLVERS", "Subspace", "subspace"]

LONGEST = 1.01  # of directions that should be 1 long
SIDES = ("std", "reverse_std", "left", "right")
SOLVERS = ("subspace", "exact")


class Sided(Protocol):
    """A split onto a subspace of one side."""

    @property
    def density(self) -> Density:
        """Share of the directions."""

    @property
    def side(self) -> str:
        """One of `SIDES`."""


def subspace(split: Sided, owner: str, draw: Draw, shape: Shape, solver: str = "") -> "Subspace | Whole | Empty":
    """Return the part of a split that is in force in a window.

    Args:
        split: gives density and side.
        owner: the split's name.
        draw: the random choices of the parameter in this window.
        shape: of the parameter; HybridOptError for what is no matrix.
        solver: of leading directions; "" for random ones.
    """
    rows, cols = _share.matrix(owner, draw, shape)
    density, end = _share.limit(split.density, draw)
    right = {"std": rows >= cols, "reverse_std": rows < cols, "left": False, "right": True}[split.side]
    return end or Subspace(portion(density, cols if right else rows), right, solver)


@dataclass(frozen=True)
class Subspace(Projection):
    """`rank` orthonormal directions Q on one side: down(x) = x Q (right, [..., m, r]) or Q^T x (left, [..., r, n])."""

    rank: int
    right: bool
    solver: str  # of the gradient's leading singular directions, one of `SOLVERS`; "" for random ones
    ordered: bool = False  # must the leading direction be the first one?

    @computed
    def local(self) -> bool:
        """Return whether it is the right side, where rows are projected one by one."""
        return self.right

    @computed
    def by_gradient(self) -> bool:
        """Return whether directions are the gradient's."""
        return bool(self.solver)

    @computed
    def carries(self) -> bool:
        """Return whether the next directions are found by going on from the last ones."""
        return self.solver == "subspace"

    def shape(self, full: Shape) -> Shape:
        """Return [..., m, r] or [..., r, n]."""
        return (*full[:-1], self.rank) if self.right else (*full[:-2], self.rank, full[-1])

    def slots(self, full: Shape) -> dict[str, Slot]:
        """Declare the basis, "basis": float [..., side, rank]."""
        return {"basis": Slot((*full[:-2], full[-1 if self.right else -2], self.rank), exact=True)}

    def sample(self, grad: Tensor, basis: State, draw: Draw) -> None:
        """Take the gradient's singular vectors, exactly or nearly so, or the Q factor of a Gaussian matrix.

        Args:
            grad: gradient [..., m, n]; read for leading directions only.
            basis: "basis", written in place; subspace iteration goes on from it, and begins with noise where it is 0.
            draw: the random choices of this parameter in this window.
        """
        old = basis["basis"]
        if self.solver == "exact":
            old.copy_(self._svd(grad.to(old.dtype), draw.name))
            return
        key = stream(draw.seed, draw.name, "subspace", draw.window)
        if self.solver:
            old.copy_(self._iterated(grad, old, key, draw.fresh))
        else:
            old.copy_(_iteration.orthonormal(_iteration.noise(old, key)))

    def flaw(self, full: Shape, basis: State, window: int) -> str | None:
        """Return what is wrong with "basis" if a direction in it is longer than 1.

        Args:
            full: shape of the parameter.
            basis: "basis".
            window: not read.
        """
        longest = float(torch.linalg.vector_norm(basis["basis"].double(), dim=-2).max())
        return None if longest <= LONGEST else f"basis has a direction of length {longest:g}, where all have 1"

    def down(self, x: Tensor, basis: State) -> Tensor:
        """Return the coordinates of `x` in the subspace."""
        q = basis["basis"]
        return x @ q if self.right else q.mT @ x

    def rest(self, x: Tensor, basis: State) -> Tensor:
        """Return what of `x` lies outside the subspace."""
        left, right = self.factors(x.shape, self.down(x, basis), basis)
        return x - left @ right

    def up_(self, out: Tensor, x: Tensor, basis: State) -> Tensor:
        """Add coordinates, back in the full shape, to `out`.

        Args:
            out: [..., m, n], changed in place.
            x: coordinates, [..., m, r] or [..., r, n].
            basis: "basis".
        """
        left, right = self.factors(out.shape, x, basis)
        return out.add_(left @ right)

    def factors(self, full: Shape, x: Tensor, basis: State) -> tuple[Tensor, Tensor]:
        """Return x and Q^T, or Q and x.

        Args:
            full: not read.
            x: coordinates, [..., m, r] or [..., r, n].
            basis: "basis".
        """
        q = basis["basis"]
        return (x, q.mT) if self.right else (q, x)

    def first(self, like: Tensor, basis: State) -> Tensor:
        """Return the leading direction, [..., side]."""
        return basis["basis"][..., 0]

    def projection(self) -> Part:
        """Return itself."""
        return self

    def _iterated(self, grad: Tensor, old: Tensor, key: int, fresh: bool) -> Tensor:
        *stack, side, rank = old.shape
        if fresh:
            width, rounds = _iteration.first(side, rank, self.ordered)
            start = _iteration.noise(old.new_empty(*stack, side, width), key)
        else:
            start, rounds = _iteration.noise(old, key).mul_(_iteration.NOISE * side**-0.5).add_(old), _iteration.LATER
        whole = grad if isinstance(grad, Tensor) else grad.to(old.dtype)  # of probes
        return _iteration.leading(whole if self.right else whole.mT, start, rank, rounds, self.ordered)

    def _svd(self, grad: Tensor, name: str) -> Tensor:
        u, _, vh = _svd(grad, name, full=self.rank > min(grad.shape[-2:]))
        return vh[..., : self.rank, :].mT if self.right else u[..., : self.rank]


def _svd(grad: Tensor, name: str, full: bool) -> tuple[Tensor, Tensor, Tensor]:
    for dtype in (grad.dtype, torch.float64):
        try:
            u, s, vh = torch.linalg.svd(grad.to(dtype), full_matrices=full)
            return u, s, vh
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined, unused-ignore]  # is documented
            continue
    raise HybridOptError(
        f"the singular value decomposition of the gradient of {name!r} did not converge; take solver='subspace', or "
        "split='random'"
    )
