"""What happens to an optimizer's gradients within the backward pass that makes them."""

import weakref
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from ..core.contracts import Release
from .hooks import Hooks
from .membership.membership import Membership
from .rank_agreement import Agreement
from .replicas.replicas import Replicated

__all__ = ["BackwardPass"]


class BackwardPass:
    """Hands gradients to the release as they are completed, or averaged, once ranks and model have been looked at.

    Args:
        optimizer: whose gradients they are; held weakly.
        membership: the parameters, which follow the model.
        release: uses the gradients.
        agreement: compares ranks before they meet.
        replicas: the DistributedDataParallel around the parameters, if any.
    """

    def __init__(
        self, optimizer: Any, membership: Membership, release: Release, agreement: Agreement, replicas: Replicated
    ):
        self._optimizer, self._hooks = weakref.proxy(optimizer), Hooks(self)
        self._membership, self._release = membership, release
        self._agreement, self._replicas = agreement, replicas
        self._lock = Lock()  # backward runs a thread for each device
        self._hooked = False

    @torch.no_grad()
    def ready(self, name: str, p: Tensor) -> None:
        """Hand a gradient that the backward pass has completed to the release; hooks call this.

        name: of the parameter. p: the parameter; the gradient is in `.grad`.
        """
        if not self._membership.followed:
            with self._lock:
                if not self._membership.followed:
                    self._begin()
        parameters = self._membership.parameters
        if self._replicas.averages(p):
            parameters.drop_idle(name, p)  # the others come when they are averaged
        else:
            self._release.gradient_ready(parameters, name, p, self._optimizer.nonfinite)

    def _begin(self) -> None:
        """Look at model and ranks, at the first gradient of a step."""
        self._membership.follow()
        parameters = self._membership.parameters
        self._agreement.check(parameters, self._replicas.ddp)
        if self._release.frees_gradients:
            parameters.check_loss_told()
            self._replicas.check_known(parameters.params())

    @torch.no_grad()
    def averaged(self, name: str, p: Tensor, read: bool) -> None:
        """Hand a gradient that DDP has averaged to the release.

        Args:
            name: of the parameter.
            p: the parameter; the average is in `.grad`.
            read: does somebody still read the weight?
        """
        parameters = self._membership.parameters
        self._release.gradient_ready(parameters, name, p, self._optimizer.nonfinite, read)

    def entered(self, ddp: Any) -> None:
        """See that ranks agree before the first pass with gradients, in which they meet.

        ddp: the DistributedDataParallel that computes, None without.
        """
        params = set() if ddp is None else {id(p) for p in ddp.parameters()}
        ddp = ddp if any(id(p) in params for p in self._membership.held().values()) else None
        parameters = self._membership.parameters
        if ddp is not None or any(one.share is not None for one in parameters.windows.all()):
            self._agreement.check(parameters, ddp)
        if ddp is not None:
            self._replicas.follow(ddp, parameters, self._release.frees_gradients)

    # ---- hooks

    def hook(self) -> None:
        """Put hooks on the parameters, from now on wherever they have to be."""
        self._hooked = True
        self.watch()

    def watch(self) -> None:
        """Put hooks where they must be now; never within a backward pass, which is running them."""
        if self._hooked and self._hooks.stale(wanted := self._membership.hooked(self._release.hooks)):
            self._hooks.put(wanted, alone=self._release.frees_gradients)

    def unhook(self) -> bool:
        """Remove every hook; return whether there were any."""
        self._hooks.remove()
        self._replicas.leave()
        self._hooked, before = False, self._hooked
        return before
