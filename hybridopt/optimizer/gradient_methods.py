"""The methods of an optimizer that have to do with gradients."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ..core.contracts import Release
from ..core.errors import HybridOptError
from . import conflicts
from .backward import BackwardPass
from .gradients.reductions import norm, total
from .idle_steps import IdleSteps
from .membership.membership import Membership
from .membership.module_tree import Tree
from .replicas.replicas import Replicated

__all__ = ["GradientMethods"]


class GradientMethods:
    """Methods of an optimizer about gradients: as backward passes complete them, held, measured, and their norm.

    They only pass calls on to what the optimizer holds, which is named here.
    """

    nonfinite: str
    _backward: BackwardPass
    _membership: Membership
    _norm: Tensor | None
    _release: Release
    _replicas: Replicated
    _stale: str | None
    _tree: Tree
    _idle_steps: IdleSteps

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
        if not self.gradients_needed:
            return None
        if self._replicas.buckets:
            raise HybridOptError(
                "measure() takes a backward pass of its own, which DistributedDataParallel would average instead of "
                "the next one: take clip_mode='previous' or 'tensor', or release='accumulate'"
            )
        if not self._release.midway:
            self._membership.follow()
        return self._release.measure(self._membership.parameters, loss, self.nonfinite)

    def tell_norm(self, norm: Tensor | float, params: Iterable[Tensor] | None = None) -> None:
        """Tell the norm of all gradients as they are now, as `torch.nn.utils.clip_grad_norm_` returns it.

        Where it is finite, the next `step` does not read gradients once more to look for NaN, unless they have changed
        since. `HybridTrainer` tells it by itself.

        Args:
            norm: of the gradients of these parameters, others may be among them, before or after clipping.
            params: the parameters; None: all of this optimizer. If it trains others, too, all gradients are read.
        """
        parameters = self._membership.parameters
        parameters.told.tell(norm, (p for _, p in parameters.params()) if params is None else params)

    @property
    def gradients_needed(self) -> bool:
        """Does any parameter take its gradient from the backward pass?"""
        return bool(self._membership.by_backward())

    @property
    def grad_norm(self) -> Tensor | None:
        """The norm of all gradients of the last step together, before clipping: shape [], on their device.

        With release="accumulate" and clip=None it is worked out from `.grad` when asked for, so ask before
        `zero_grad()`, or pass clip=float("inf"). None where there are no gradients.
        """
        if self._norm is None:
            with torch.no_grad():
                return total(norm(p.grad) for _, p in self._membership.parameters.waiting() if p.grad is not None)
        return self._norm

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """With release="fused" torch.amp.GradScaler finds no gradients, and must leave it to `step()` to say so."""
        conflicts.check_unscaled(self._membership.parameters, self._idle_steps.arrived)
        return self._release.frees_gradients

    # ---- hooks

    def gradient_ready(self, name: str, p: Tensor) -> None:
        """Use a gradient that is complete, as the release says; hooks of the parameters do the same."""
        self._backward.ready(name, p)

    def gradient_averaged(self, name: str, p: Tensor, read: bool) -> None:
        """Use a gradient that DDP has averaged; DDP's hook calls this.

        Args:
            name: of the parameter.
            p: the parameter, with the averaged gradient.
            read: does the backward pass still read the weight, so that it must not change yet?
        """
        self._backward.averaged(name, p, read)

    def entered(self, ddp: Any) -> None:
        """Begin a forward pass, in this DistributedDataParallel if it is not None; hooks of the model call this."""
        self._backward.entered(ddp)

    def unhook(self) -> bool:
        """Remove every hook from the parameters; the optimizer can still step. Returns whether there were any."""
        return self._backward.unhook()

    def rehook(self) -> None:
        """Put the hooks back that `unhook` has removed."""
        self._membership.rebuild()
        self._backward.hook()
        self._replicas.expect(self._tree.module, self._membership.parameters.params())

    def retire(self, why: str) -> None:
        """Let go of the parameters, as they are no longer those of the model: every later step raises `why`."""
        self.unhook()
        self._stale = why
