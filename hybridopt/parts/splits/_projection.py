"""A part that projects onto a subspace, and one that keeps the basis of another in its own way."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ...core.contracts import Part, Shape, State, computed

__all__ = ["Projection", "Wrapped"]


class Projection(Part):
    """Coordinates by a basis are state-full: there is always some part in the subspace, and some outside."""

    @abstractmethod
    def shape(self, full: Shape) -> Shape:
        """Return the shape of the coordinates, [..., m, r] or [..., r, n]."""

    @abstractmethod
    def down(self, x: Tensor, basis: State) -> Tensor:
        """Return the coordinates of `x`."""

    @abstractmethod
    def rest(self, x: Tensor, basis: State) -> Tensor:
        """Return what of `x` lies outside the subspace."""

    @abstractmethod
    def first(self, like: Tensor, basis: State) -> Tensor:
        """Return the leading direction for a gradient of the shape of `like`, [..., side]."""


@dataclass(frozen=True)
class Wrapped(Projection):
    """Projects as the part beneath it, `inner`, does."""

    inner: Projection

    @computed
    def local(self) -> bool:
        """Return whether rows are projected one by one."""
        return self.inner.local

    @computed
    def by_gradient(self) -> bool:
        """Return whether directions are the gradient's."""
        return self.inner.by_gradient

    @computed
    def carries(self) -> bool:
        """Return whether the part beneath goes on from its last basis."""
        return self.inner.carries

    def shape(self, full: Shape) -> Shape:
        """Return the shape of the coordinates, [..., m, r] or [..., r, n]."""
        return self.inner.shape(full)

    def flaw(self, full: Shape, basis: State, window: int) -> str | None:
        """Return what the part beneath finds wrong.

        Args:
            full: shape of the parameter.
            basis: of the part beneath, and more.
            window: in which it was made.
        """
        return self.inner.flaw(full, basis, window)

    def read_ahead(self, basis: State) -> None:
        """Let the part beneath read; basis: as `sample` has left it."""
        self.inner.read_ahead(basis)

    def projection(self) -> Part | None:
        """Return the subspace beneath."""
        return self.inner.projection()
