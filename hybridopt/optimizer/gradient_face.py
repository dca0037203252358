"""The first-order side of an optimizer, as its users see it."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ..core.contracts import Release
from ..core.errors import HybridOptError
from . import conflicts
from .gradients import norm, total
from .parameters import Parameters
from .replicas.replicas import Replicated
from .turns import Turns

__all__ = ["Backpropagating"]


class Backpropagating:
    """Gradients as the backward pass makes them: held, measured, and their norm."""

    nonfinite: str
    _backward: Callable[[dict], Sequence[Tensor]]
    _look: Callable[[], None]
    _norm: Tensor | None
    _parameters: Parameters
    _release: Release
    _replicas: Replicated
    _sections: Callable[[], list[dict[str, Any]]]
    _turns: Turns

    def hold(self) -> AbstractContextManager:
        """Return a context in which backward passes only add up gradients; with release="accumulate" they always do.

        For all but the last backward pass of a step. The sum is kept in `.grad`: all gradients are alive meanwhile.
        """
        return self._release.hold()

    def measure(self, loss: Tensor) -> Tensor | None:
        """Work out the norm of all gradients of `loss`, held ones included, by a backward pass that keeps none.

        For clip_mode="global" with release="fused": call it before `loss.backward()`, which has to run again. With
        release="accumulate" it does nothing, since the norm is known anyway, nor where no parameter takes gradients.
        """
        if not any(map(self._backward, self._sections())):
            return None
        if self._replicas.buckets:
            raise HybridOptError(
                "measure() takes a backward pass of its own, which DistributedDataParallel would average instead of "
                "the next one: take clip_mode='previous' or 'tensor', or release='accumulate'"
            )
        if not self._release.midway:
            self._look()
        return self._release.measure(self._parameters, loss, self.nonfinite)

    def tell_norm(self, norm: Tensor | float, params: Iterable[Tensor] | None = None) -> None:
        """Tell the norm of all gradients as they are now, as `torch.nn.utils.clip_grad_norm_` returns it.

        Where it is finite, the next `step` does not read gradients once more to look for NaN, unless they have changed
        since. `HybridTrainer` tells it by itself.

        Args:
            norm: of the gradients of these parameters, others may be among them, before or after clipping.
            params: the parameters; None: all of this optimizer. If it trains others, too, all gradients are read.
        """
        self._parameters.told.tell(norm, (p for _, p in self._parameters.params()) if params is None else params)

    @property
    def grad_norm(self) -> Tensor | None:
        """The norm of all gradients of the last step together, before clipping: shape [], on their device.

        With release="accumulate" and clip=None it is worked out from `.grad` when asked for, so ask before
        `zero_grad()`, or pass clip=float("inf"). None where there are no gradients.
        """
        if self._norm is None:
            with torch.no_grad():
                return total(norm(p.grad) for _, p in self._parameters.waiting() if p.grad is not None)
        return self._norm

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """With release="fused" torch.amp.GradScaler finds no gradients, and must leave it to `step()` to say so."""
        conflicts.check_unscaled(self._parameters, self._turns.arrived)
        return self._release.frees_gradients
