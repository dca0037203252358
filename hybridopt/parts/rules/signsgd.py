"""signSGD."""

from dataclasses import dataclass

__all__ = ["SignSGD"]


@dataclass(frozen=True)
class SignSGD:
    """The sign of the gradient, no state (Bernstein et al. 2018, Alg. 1)."""

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
        """sign(g); zero stays zero."""
        return grad.sign()
