"""What a source of gradients, and a random direction, are asked for."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..numerics.directions import Direction
from .values import Draw, Shape, Slot, State

__all__ = ["HowTrained", "Noise", "ProbeScheme", "Source"]


@dataclass(frozen=True)
class ProbeScheme:
    """How losses at shifted weights become slopes, one for each random direction z_k; an optimizer has one for all.

    two_sided: (l(theta + eps z) - l(theta - eps z)) / 2, else l(theta + eps z) - l(theta). normalized: divided by the
    standard deviation of the losses. conservative: of the steps +1, -1 and 0 the one with the lowest loss is made.
    """

    samples: int = 1
    two_sided: bool = True
    normalized: bool = False
    conservative: bool = False


class Noise(Protocol):
    """One random direction z of one parameter; `core.numerics.directions.Direction` is the elementwise one."""

    @abstractmethod
    def values(self, start: int, count: int, device: torch.device) -> Tensor:
        """Return a piece of z: float32 [count].

        Args:
            start: position of the first element in the flattened parameter.
            count: elements.
            device: where the tensor is made.
        """

    def drawn(self, numel: int) -> tuple[Direction, int] | None:
        """Return the elementwise direction that z of `numel` elements is made from, and how many elements that takes.

        Those of small parameters are worked out together beforehand; None if nothing can be.
        """
        return None


class Source(Protocol):
    """Where a gradient comes from: `share` of the backward pass's, plus `weights` of random directions."""

    backward: bool = False
    """Does it take a gradient from the backward pass?"""

    share: float = 0.0
    """How much of that gradient it takes."""

    scheme: ProbeScheme | None = None
    """How its losses are probed; None: it takes no probes."""

    eps: float = 0.0
    """How far the weights are shifted, in units of the direction."""

    update_gap: int = 0
    """Steps for which the basis stays; 0: there is none."""

    exact: bool = False
    """Are its directions the same to the last bit on every device? Then weights can be rebuilt from scalars."""

    kind: str = "rademacher"
    """Of its elementwise directions: "rademacher" or "gaussian"."""

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Return the basis that directions of this shape are made of, by name."""
        return {}

    def sample(self, basis: State, draw: Draw) -> None:
        """Fill the basis in place, at the start of the window of `draw`."""
        return None

    @abstractmethod
    def noise(self, draw: Draw, shape: Shape, index: int, basis: State) -> Noise | None:
        """Return a direction of the step of `draw`; None where the parameter is left alone in it.

        Args:
            draw: the random choices of this parameter in this step.
            shape: of the parameter.
            index: which direction of the step, from 0.
            basis: the slots by name.
        """

    @abstractmethod
    def weights(self, slopes: Sequence[float]) -> tuple[float, ...]:
        """Return how much of each direction the gradient has, by the slopes along all of them."""


class HowTrained(Protocol):
    """How a parameter is trained, as far as a model is concerned."""

    @property
    @abstractmethod
    def source(self) -> Source:
        """Return what its gradient comes from."""
