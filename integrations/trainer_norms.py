"""Norms that a Trainer has worked out when it clipped, told to its optimizer, which then reads no gradient twice."""

from typing import Any

from torch import nn
from torch.optim import Optimizer

from hybridopt.optimizer.optimizer import HybridOptimizer

__all__ = ["TellingNorms", "bare"]


class TellingNorms:
    """Makes a Trainer tell its optimizer the norm of each step."""

    optimizer: Any

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Return what the Trainer returns, before the optimizer's step."""
        inner: Any = super()
        norm, optimizer = inner._get_grad_norm(model, grad_norm=grad_norm), bare(self.optimizer)
        if optimizer is not None and norm is not None:
            optimizer.tell_norm(norm, model.parameters())  # it may train others, too, as those of a loss
        return norm


def bare(optimizer: Optimizer | None) -> HybridOptimizer | None:
    """Return the HybridOptimizer in accelerate's container, if any; None for another optimizer."""
    optimizer = getattr(optimizer, "optimizer", optimizer)
    return optimizer if isinstance(optimizer, HybridOptimizer) else None
