"""What a source of gradients is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .values import Draw, Shape, Slot, State

__all__ = ["Noise", "ProbeScheme", "Source"]


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
    """One random direction of one parameter."""

    def values(self, start: int, count: int, device: torch.device) -> Tensor:
        """z at the positions start .. start + count of the flattened parameter: float32, shape [count]."""


class Source(Protocol):
    """Where a gradient comes from: `share` of the backward pass's, plus `weights` of the random directions."""

    backward: bool  # does it take a gradient from the backward pass?
    share: float  # how much of it
    scheme: ProbeScheme | None  # None: it takes no probes
    eps: float  # how far the weights are shifted
    update_gap: int  # steps for which the basis stays, 0: there is none
    exact: bool  # are its directions the same to the last bit on every device?

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """The basis that directions of this shape are made of."""

    def sample(self, basis: State, draw: Draw) -> None:
        """Fill the basis, at the start of a window."""

    def noise(self, draw: Draw, shape: Shape, index: int, basis: State) -> "Noise | None":
        """Direction `index` of this step (`draw.step`); None where the parameter is left alone in it."""

    def weights(self, slopes: Sequence[float]) -> tuple[float, ...]:
        """How much of each direction the gradient has, by the slopes along all of them."""
