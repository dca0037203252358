"""Plain SGD."""

from dataclasses import dataclass

from torch import Tensor

from ...core.contracts import Numbers, Rule, State

__all__ = ["SGD"]


@dataclass(frozen=True)
class SGD(Rule):
    """The gradient itself, no state (Robbins & Monro 1951)."""

    local = True
    proportional = True
    looks = 0

    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Return the gradient, copied, as directions are changed in place afterwards.

        Args:
            grad: of any shape.
            state: empty.
            param: not read.
            now: not read.
        """
        return grad.clone()
