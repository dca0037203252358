"""Gradients before they are used: are they sound, and are they needed at all?"""

import warnings
import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from .errors import HybridOptError, HybridOptWarning

__all__ = ["NONFINITE", "Drop", "sound"]

NONFINITE = ("raise", "skip", "ignore")


class Drop:
    """A hook that drops the gradient of an idle parameter as soon as the backward pass has made it.

    It holds its optimizer weakly, so that neither keeps the other alive.
    """

    def __init__(self, optimizer: object, idle: Callable[[object, Tensor], bool]):
        self._optimizer, self._idle = weakref.ref(optimizer), idle

    def __call__(self, p: Tensor) -> None:
        """Drop it, if it is idle now."""
        optimizer = self._optimizer()
        if optimizer is not None and self._idle(optimizer, p):
            p.grad = None


def sound(grads: list[tuple[str, Tensor]], nonfinite: str, step: int) -> bool:
    """May the step go on? Raises HybridOptError for sparse gradients, and as `nonfinite` says for NaN and infinity."""
    for name, grad in grads:
        if grad.layout != torch.strided:
            raise HybridOptError(f"the gradient of {name!r} is sparse ({grad.layout}); use nn.Embedding(sparse=False)")
    if nonfinite == "ignore" or _all_finite([g for _, g in grads]):
        return True
    name = next(n for n, g in grads if not g.isfinite().all())
    text = f"the gradient of {name!r} is not finite at step {step}"
    if nonfinite == "raise":
        raise HybridOptError(f"{text}; nothing was changed. Lower lr, clip gradients, or pass nonfinite='skip'")
    warnings.warn(f"{text}; the step is skipped", HybridOptWarning, stacklevel=5)
    return False


def _all_finite(grads):
    """A sum of finite numbers may overflow, but what is not finite always shows in it: look closely only then."""
    by_device: dict[torch.device, list] = {}
    for g in grads:
        by_device.setdefault(g.device, []).append(g.sum(dtype=torch.float32))
    if all(bool(torch.stack(sums).isfinite().all()) for sums in by_device.values()):
        return True
    return all(bool(g.isfinite().all()) for g in grads)
