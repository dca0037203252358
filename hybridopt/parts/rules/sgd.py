"""Plain SGD."""

from dataclasses import dataclass

__all__ = ["SGD"]


@dataclass(frozen=True)
class SGD:
    """The gradient itself, no state (Robbins & Monro 1951)."""

    local = True
    reads_param = False
    looks = 0

    def slots(self, shape):
        """None: state-free."""
        return {}

    def numbers(self, step):
        """None."""
        return {}

    def update(self, grad, state, param, now):
        """The gradient, copied: directions are changed in place afterwards."""
        return grad.clone()
