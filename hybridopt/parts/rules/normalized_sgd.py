"""Normalized SGD."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.contracts import Numbers, Rule, Shape, Slot, State
from ...core.errors import HybridOptError, check_number

__all__ = ["NormalizedSGD"]


@dataclass(frozen=True)
class NormalizedSGD(Rule):
    """The gradient of each matrix over its Frobenius norm, no state (Hazan et al. 2015, SNGD).

    lr is the length of the whole step of a matrix; a step of signSGD is sqrt(elements) times as long. eps: added to
    the norm.
    """

    eps: float = 1e-8
    looks = 1

    def __post_init__(self) -> None:
        check_number("NormalizedSGD", "eps", self.eps, 0)

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Declare no state; HybridOptError for what is no matrix."""
        if len(shape) < 2:
            raise HybridOptError(
                f"NormalizedSGD needs a matrix, got shape {tuple(shape)}; take split='columns' or 'rows', or 'sgd'"
            )
        return {}

    def look(self, i: int, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> tuple[State, State]:
        """Find the norms of the rows: "norm", [..., rows, 1].

        Args:
            i: 0.
            grad: rows of the gradient, [..., rows, n].
            state: empty.
            param: not read.
            now: not read.
        """
        return {"norm": grad.norm(dim=-1, keepdim=True)}, {}

    def settle(self, i: int, rows: State, sums: State, state: State, now: Numbers) -> tuple[State, State]:
        """Find the norm of the matrix, inverted: "inverse", [..., 1, 1].

        Below what can be squared, gradients do not grow to norm 1.

        Args:
            i: 0.
            rows: norms, "norm", [..., m, 1].
            sums: empty.
            state: empty.
            now: not read.
        """
        norm = rows["norm"].norm(dim=-2, keepdim=True) + self.eps
        return {}, {"inverse": norm.clamp(min=torch.finfo(norm.dtype).tiny ** 0.5).reciprocal()}

    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Return g / (norm(g) + eps), shape of `grad`.

        Args:
            grad: g, [..., rows, n].
            state: empty.
            param: not read.
            now: "inverse", [..., 1, 1].
        """
        return grad * now["inverse"]
