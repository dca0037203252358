"""The bytes of gradients at their largest, looked at where they are alive."""

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ...model.fsdp.sharded_tensors import local
from ...optimizer.gradients.reductions import norm, total
from ...optimizer.optimizer import HybridOptimizer
from ...optimizer.releases import release_class
from .memory import gradient_bytes

__all__ = ["GradientWatch"]


class GradientWatch:
    """Counts gradients whenever it is asked, and where they are freed within the backward pass, each as it comes.

    `largest` is the largest sum since `take`, in bytes.
    """

    def __init__(self) -> None:
        self.largest, self.freed_at_once = 0, False
        self._parameters: list[Tensor] = []
        self._handles: list[RemovableHandle] = []

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """Watch the parameters of an optimizer, and no others any more."""
        self.end()
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.freed_at_once = (
            isinstance(optimizer, HybridOptimizer) and release_class(optimizer.release).frees_gradients
        )
        if self.freed_at_once:
            self._handles = [p.register_hook(self._seen) for p in self._parameters if p.requires_grad]

    def count(self) -> None:
        """Count the gradients that are there now."""
        self.largest = max(self.largest, gradient_bytes(self._parameters))

    def norm(self) -> float | None:
        """Return the 2-norm of all gradients that are there now; None where there are none, or are freed at once."""
        there = [] if self.freed_at_once else [p.grad for p in self._parameters if p.grad is not None]
        found = total(map(norm, there))
        return None if found is None else float(found)

    def take(self) -> int:
        """Return the largest sum of bytes, and begin anew."""
        found, self.largest = self.largest, 0
        return found

    def end(self) -> None:
        """Watch no parameter any more."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._parameters = [], []

    def _seen(self, gradient: Tensor) -> None:
        self.largest = max(self.largest, local(gradient).nbytes)
