"""A state-free part that stands still."""

from dataclasses import dataclass

__all__ = ["NoUpdate"]


@dataclass(frozen=True)
class NoUpdate:
    """No update outside the state-full part, as in GaLore (Zhao et al. 2024) and BAdam (Luo et al. 2024).

    A parameter that is not state-full at all in a window is left alone, weight decay included, and its gradient is
    dropped as soon as the backward pass has made it.
    """

    local = True
    reads_param = False
    looks = 0
    idle = True

    def slots(self, shape):
        """None: state-free."""
        return {}

    def numbers(self, step):
        """None."""
        return {}

    def update(self, grad, state, param, now):
        """Zeros."""
        return grad.new_zeros(grad.shape)
