"""A subspace whose basis is kept in 4 bits."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.contracts import Draw, Part, Shape, Slot, State
from ...core.numerics.grids import GROUP, decode, encode, grid, groups
from ._projection import Wrapped

__all__ = ["Int4Basis"]

TOP = 15


@dataclass(frozen=True)
class Int4Basis(Wrapped):
    """Two codes in a byte, and a grid for 256 of them (Q-GaLore, Zhang et al. 2024, section 3.4: the projection)."""

    def slots(self, full: Shape) -> dict[str, Slot]:
        """Declare the codes, uint8 [half the elements], and a scale and a zero point a group."""
        count = self._count(full)
        constants = {"basis_scale": torch.float32, "basis_zero": torch.uint8}
        packed = {"basis": Slot((-(-count // 2),), torch.uint8, exact=True)}
        return packed | {k: Slot((-(-count // GROUP),), dtype, exact=True) for k, dtype in constants.items()}

    def sample(self, grad: Tensor, basis: State, draw: Draw) -> None:
        """Round a new basis to nearest; the part beneath may go on from the last one.

        Args:
            grad: gradient [..., m, n].
            basis: "basis", "basis_scale" and "basis_zero", written in place.
            draw: the random choices of this parameter in this window.
        """
        exact = self._exact(grad.shape, basis["basis_scale"].dtype, basis)
        self.inner.sample(grad, exact, draw)
        x = groups(exact["basis"])
        scale, zero = grid(x, TOP)
        codes = encode(x, scale, zero).round().clamp_(0, TOP).to(torch.uint8)
        packed = codes[:, ::2] | codes[:, 1::2] << 4
        for name, value in {"basis": packed, "basis_scale": scale, "basis_zero": zero}.items():
            basis[name].copy_(value.flatten()[: basis[name].numel()])

    def flaw(self, full: Shape, basis: State, window: int) -> str | None:
        """Return what is wrong with the scales unless directions come out of them that are no longer than about 1.

        Args:
            full: shape of the parameter.
            basis: codes, scales and zero points.
            window: not read.
        """
        scale, zero = basis["basis_scale"], basis["basis_zero"]
        good = bool(((scale >= 0) & (scale <= 1)).all()) and bool((zero <= TOP).all())
        return None if good else f"basis_scale must lie in [0, 1], and basis_zero in [0, {TOP}]"

    def down(self, x: Tensor, basis: State) -> Tensor:
        """Return the coordinates of `x`, by a basis that is only nearly orthonormal."""
        return self.inner.down(x, self._exact(x.shape, x.dtype, basis))

    def rest(self, x: Tensor, basis: State) -> Tensor:
        """Return what the coordinates leave of `x`."""
        return self.inner.rest(x, self._exact(x.shape, x.dtype, basis))

    def up_(self, out: Tensor, x: Tensor, basis: State) -> Tensor:
        """Add coordinates, back in the full shape, to `out`.

        Args:
            out: [..., m, n], changed in place.
            x: coordinates.
            basis: codes, scales and zero points.
        """
        return self.inner.up_(out, x, self._exact(out.shape, out.dtype, basis))

    def factors(self, full: Shape, x: Tensor, basis: State) -> tuple[Tensor, Tensor] | None:
        """Return the coordinates and the basis, which is there in full precision for a moment.

        Args:
            full: shape of the parameter.
            x: coordinates.
            basis: codes, scales and zero points.
        """
        return self.inner.factors(full, x, self._exact(full, x.dtype, basis))

    def first(self, like: Tensor, basis: State) -> Tensor:
        """Return the leading direction for a gradient of the shape of `like`, [..., side]."""
        return self.inner.first(like, self._exact(like.shape, basis["basis_scale"].dtype, basis))

    def projection(self) -> Part:
        """Return itself: a new basis is there in full precision for a moment."""
        return self

    def _exact(self, full: Shape, dtype: torch.dtype, basis: State) -> State:
        packed = groups(basis["basis"], GROUP // 2)
        codes = torch.stack((packed & TOP, packed >> 4), -1).view(-1, GROUP)
        x = decode(codes, basis["basis_scale"], basis["basis_zero"], dtype)
        (slot,) = self.inner.slots(tuple(full)).values()
        return {"basis": x.view(-1)[: math.prod(slot.shape)].view(slot.shape)}

    def _count(self, full: Shape) -> int:
        return sum(math.prod(slot.shape) for slot in self.inner.slots(full).values())
