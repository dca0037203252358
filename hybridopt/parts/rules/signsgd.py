"""signSGD."""

from dataclasses import dataclass

from torch import Tensor

from ...core.contracts import Numbers, Rule, State

__all__ = ["SignSGD"]


@dataclass(frozen=True)
class SignSGD(Rule):
    """The sign of the gradient, no state (Bernstein et al. 2018, Alg. 1)."""

    local = True
    looks = 0

    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Return sign(g), shape of `grad`; zero stays zero.

        Args:
            grad: g, of any shape.
            state: empty.
            param: not read.
            now: not read.
        """
        return grad.sign()
