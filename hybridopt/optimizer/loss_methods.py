"""The methods of an optimizer that have to do with losses."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..core.contracts import Release
from ..core.errors import HybridOptError
from . import conflicts
from .membership.membership import Membership
from .probing.log import Log
from .probing.state import ProbeState
from .rank_agreement import Agreement
from .replicas.replicas import Replicated
from .windows.loss_windows import LossWindows

__all__ = ["LossMethods"]


class LossMethods:
    """Methods of an optimizer about losses: of batches, and at shifted weights, in place of gradients or beside them.

    They only pass calls on to what the optimizer holds, which is named here.
    """

    nonfinite: str
    _asked_who_runs: bool
    param_groups: list[dict[str, Any]]
    _membership: Membership
    _pace: LossWindows | None
    _probing: ProbeState
    _release: Release
    _agreement: Agreement
    _replicas: Replicated

    def probe(self, loss_fn: Callable[[], Any] | Sequence[Callable[[], Any]]) -> float:
        """Measure the loss at theta +/- eps z, for the next `step()`; returns the mean of the losses.

        loss_fn: computes and returns the loss, a number or a tensor of one element, without a backward pass; or a list
        of such, whose mean counts (micro-batches). It is called as often as the policy's source says, two times for
        MeZO, without gradients, with the same random numbers (dropout) and buffers each time. No weight changes.
        Buffers of modules in training mode (running statistics) become what the first evaluation makes of them, but
        stay as they are where the policy takes gradients, too.
        Several probes before a step shift along the same directions and are averaged. Addax: `optimizer.probe(long)`,
        then `short_loss.backward()`, then `optimizer.step()`.

        Raises HybridOptError, with everything as it was, for a loss that is no finite number (unless nonfinite="skip":
        then the step is left out), and for a loss_fn that changes the model or asks for gradients.
        """
        if self._release.midway:
            raise HybridOptError("probe() comes before loss.backward(), which has updated weights; call step() first")
        self._probing.reshard()
        self._membership.follow()
        parameters = self._membership.parameters
        self._replicas.find(parameters.params())
        self._agreement.check(parameters, self._replicas.ddp)
        peers = self._agreement.peers(parameters, self._replicas.ddp)
        return self._probing.probe(parameters, loss_fn, self.nonfinite, peers)

    def train(self) -> None:
        """Take note that training goes on; the transformers Trainer says so before every forward pass.

        Raises HybridOptError where that loop will call `loss.backward()`, and no parameter takes a gradient.
        """
        if not self._asked_who_runs and self.probes_needed and not self._membership.by_backward():
            conflicts.check_probed(self.param_groups)
            self._asked_who_runs = True

    @property
    def probes_needed(self) -> bool:
        """Does any parameter take its gradient from probes?"""
        return self._probing.measured.wanted

    @property
    def projected_gradient(self) -> float | None:
        """The slope along the (first) direction of the last step, over eps; nan where the step was skipped.

        In units of the losses' standard deviation with fzoo; 0 where zo_conservative stood still.
        """
        return None if self._probing.last is None else self._probing.last[0]

    @property
    def slopes(self) -> tuple[float, ...] | None:
        """Half the differences of the losses measured for the next step, by direction; None before any probe."""
        return self._probing.measured.slopes

    @property
    def log(self) -> Log | None:
        """The record from which zeroth-order weights can be rebuilt; None without zeroth-order parts."""
        return self._probing.log

    @property
    def watches(self) -> bool:
        """Whether the policy goes by the loss, so that `observe` has to be told of it."""
        return self._pace is not None

    def observe(self, loss: float | Tensor) -> None:
        """Tell the loss of a batch, before its backward pass: for policies whose windows follow it (`adafrugal`).

        The mean of all that were told in a window counts, of all ranks that train the model; a tensor is read
        when the window ends. `step(closure)` and `HybridTrainer` tell it by themselves. Other policies take no notice.
        Raises HybridOptError for what is no number.
        """
        if self._pace is not None:
            self._pace.observe(loss)
