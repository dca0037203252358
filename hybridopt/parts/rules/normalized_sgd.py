"""Normalized SGD."""

from dataclasses import dataclass

import torch

from ...core.errors import HybridOptError, check_number

__all__ = ["NormalizedSGD"]


@dataclass(frozen=True)
class NormalizedSGD:
    """The gradient of each matrix over its Frobenius norm, no state (Hazan et al. 2015, SNGD).

    lr is the length of the whole step of a matrix; a step of signSGD is sqrt(elements) times as long. eps: added to
    the norm.
    """

    eps: float = 1e-8
    local = False
    reads_param = False
    looks = 1

    def __post_init__(self):
        check_number("NormalizedSGD", "eps", self.eps, 0)

    def slots(self, shape):
        """None: state-free; HybridOptError for what is no matrix."""
        if len(shape) < 2:
            raise HybridOptError(
                f"NormalizedSGD needs a matrix, got shape {tuple(shape)}; take split='columns' or 'rows', or 'sgd'"
            )
        return {}

    def numbers(self, step):
        """None."""
        return {}

    def look(self, i, grad, state, param, now):
        """Norms of the rows."""
        return {"norm": grad.norm(dim=-1, keepdim=True)}, {}

    def settle(self, i, rows, sums, state, now):
        """The norm of the matrix, inverted; below what can be squared, gradients do not grow to norm 1."""
        norm = rows["norm"].norm(dim=-2, keepdim=True) + self.eps
        return {}, {"inverse": norm.clamp(min=torch.finfo(norm.dtype).tiny ** 0.5).reciprocal()}

    def update(self, grad, state, param, now):
        """g / (norm(g) + eps)."""
        return grad * now["inverse"]
