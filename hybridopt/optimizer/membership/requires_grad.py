"""Parameters that stop requiring gradients while an optimizer holds them."""

import warnings
from collections.abc import Iterable

from torch import Tensor

from ...core.errors import HybridOptError, HybridOptWarning

__all__ = ["TrainableCount"]

CURE = "after switching adapters make a new optimizer with model.hybrid.optimizer()"


class TrainableCount:
    """Counts the parameters that can be trained, of those that need the backward pass."""

    def __init__(self):
        self._count = 0

    def begin(self, params: Iterable[Tensor]) -> None:
        """Count these parameters alone."""
        self._count = 0
        self.add(params)

    def add(self, params: Iterable[Tensor]) -> None:
        """Parameters that join."""
        self._count += sum([p.requires_grad for p in params])

    def check(self, work: list[tuple[str, Tensor]]) -> None:
        """Raise HybridOptError if none can be trained any more, as when PEFT switches adapters; warn of fewer."""
        alive = sum([p.requires_grad for _, p in work])
        lost, self._count = alive < self._count, alive
        if not lost:
            return
        name = next(n for n, p in work if not p.requires_grad)
        if not alive:
            self._count = 1  # the next step raises again
            raise HybridOptError(
                f"nothing to train any more: {name!r} and all other parameters of this optimizer have "
                f"requires_grad=False now; {CURE}"
            )
        warnings.warn(f"{name!r} (at least) was frozen since the last step; {CURE}", HybridOptWarning, stacklevel=5)
