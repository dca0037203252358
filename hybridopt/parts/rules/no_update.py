"""A state-free part that stands still."""

from dataclasses import dataclass

from torch import Tensor

from ...core.contracts import Numbers, Rule, State

__all__ = ["NoUpdate"]


@dataclass(frozen=True)
class NoUpdate(Rule):
    """No update outside the state-full part, as in GaLore (Zhao et al. 2024) and BAdam (Luo et al. 2024).

    A parameter that is not state-full at all in a window is left alone, weight decay included, and its gradient is
    dropped as soon as the backward pass has made it.
    """

    local = True
    looks = 0
    idle = True

    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Return zeros, shape of `grad`.

        Args:
            grad: of any shape; its values are not read.
            state: empty.
            param: not read.
            now: not read.
        """
        return grad.new_zeros(grad.shape)
