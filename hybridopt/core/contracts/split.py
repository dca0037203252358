"""What a split, and the part that is in force for one window, are asked for.

A split that cuts every parameter alike in every window, as `parts.splits.whole` does, is its own part: it subclasses
both.
"""

from abc import abstractmethod
from typing import Protocol

from torch import Tensor

from .values import Density, Draw, Shape, Slot, State, stream

__all__ = ["Part", "Split"]


class Part(Protocol):
    """A split in force for one window: `up_(zeros, down(x)) + rest(x) == x`. A frozen dataclass."""

    local: bool = False
    """May it be applied to slices of rows?"""

    disjoint: bool = False
    """Is every entry either state-full or state-free? Then `up_` overwrites."""

    covers: bool = False
    """Is every entry state-full?"""

    empty: bool = False
    """Is every entry state-free? Then `shape` is None."""

    columns: str = ""
    """The slot with the sorted indices of the state-full columns, where whole columns are state-full; else ""."""

    carries: bool = False
    """Does `sample` go on from the basis of the window before?"""

    by_gradient: bool = False
    """Does `sample` read the gradient? Else it only draws at random, on the host."""

    sizes: tuple[str, ...] = ()
    """Fields, whole numbers, that follow from the shape: parts that differ in these alone share a compiled kernel."""

    @abstractmethod
    def shape(self, full: Shape) -> Shape | None:
        """Return the shape of the state-full part of a tensor of shape `full`; None where there is none."""

    def slots(self, full: Shape) -> dict[str, Slot]:
        """Return what the part itself keeps for a tensor of shape `full`, indices or a basis, by name."""
        return {}

    def sample(self, grad: Tensor, basis: State, draw: Draw) -> None:
        """Fill the basis at the start of a window; rare and eager. A gradient may have NaN and infinity.

        Args:
            grad: gradient, in its own dtype, as a copy in that of the basis would be as large as the parameter.
            basis: the slots by name, zeros unless the part `carries`; changed in place.
            draw: the random choices of this parameter in this window.
        """
        return None

    def read_ahead(self, basis: State) -> None:
        """Read what the next `sample` will want to know on the host: here it does not wait for the device.

        It is called when a step ends whose updates nobody has waited for.

        basis: the slots by name, as `sample` has left them.
        """
        return None

    def flaw(self, full: Shape, basis: State, window: int) -> str | None:
        """Return why `sample` cannot have made a basis, which was read from a file; None if it can.

        Args:
            full: shape of the tensor that is split.
            basis: the slots by name, of the shapes and dtypes declared, without NaN and infinity.
            window: in which it was made.
        """
        return None

    @abstractmethod
    def down(self, x: Tensor, basis: State) -> Tensor | None:
        """Return the state-full part of `x`, in the shape that `shape` says."""

    @abstractmethod
    def rest(self, x: Tensor, basis: State) -> Tensor | None:
        """Return the state-free part of `x`, in the shape of `x`; None where there is none."""

    @abstractmethod
    def up_(self, out: Tensor, x: Tensor, basis: State) -> Tensor:
        """Join the state-full part to a full tensor, in place where that is possible, and return it.

        Args:
            out: tensor of the full shape, the state-free part.
            x: state-full part, in the shape that `shape` says.
            basis: the slots by name.
        """

    def factors(self, full: Shape, x: Tensor, basis: State) -> tuple[Tensor, Tensor] | None:
        """Return two matrices whose product `up_` adds, so that one call adds it to a weight; None: there are none.

        Args:
            full: shape of the tensor that is split.
            x: state-full part, in the shape that `shape` says.
            basis: the slots by name.
        """
        return None

    def first(self, like: Tensor, basis: State) -> Tensor | None:
        """Return the leading direction for a gradient of the shape of `like`, [..., side]; None without directions."""
        return None

    def projection(self) -> "Part | None":
        """Return the projection onto a subspace in this part, itself or one it wraps; None if there is none.

        The planner runs its `sample` on tensors without values, to learn what that takes.
        """
        return None


class Split(Protocol):
    """Which part of a parameter is state-full, chosen anew every `update_gap` steps. A frozen dataclass."""

    update_gap: int = 0
    """Steps of a window; 0: chosen once and for all."""

    density: Density | None = None
    """State-full share of the elements, 0 to 1, or a schedule by step; None if no number says it."""

    by_turns: bool = False
    """Do whole parameters take turns? Then `at` goes by the population, and a window may hold more than the first.

    One that is alone in its population is in turn in every window.
    """

    spread: bool = False
    """Do the windows of different parameters begin at different steps, as `Part.sample` costs much?

    Only where the density is constant: a schedule by step moves all of them together.
    """

    def ahead(self, seed: int, name: str) -> int:
        """Return by how many steps a parameter's windows begin early: 0 to update_gap - 1, and 0 without `spread`.

        The very first begins with the run and is shorter by as much. This follows from seed and name alone.
        """
        spreads = self.spread and self.update_gap and self.constant() is not None
        return stream(seed, name, "ahead") % self.update_gap if spreads else 0

    def window(self, step: int, ahead: int = 0) -> int:
        """Return the number of the window, from 0, that a step is in, for windows that begin `ahead` of time."""
        return (step + ahead) // self.update_gap if self.update_gap else 0

    def begin(self, window: int, ahead: int = 0) -> int:
        """Return the first step of a window, for windows that begin `ahead` of time."""
        return max(0, window * self.update_gap - ahead)

    def constant(self) -> float | None:
        """Return the density if it is the same in every window, for every parameter; else None."""
        return None if callable(self.density) else self.density

    @abstractmethod
    def at(self, draw: Draw, shape: Shape) -> Part:
        """Return the part in force in the window of `draw` for a parameter of this shape."""
