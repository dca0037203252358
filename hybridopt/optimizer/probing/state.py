"""Zeroth-order state of one optimizer: the pending probe, whether a step may run, and the replay log."""

import math
import warnings
import weakref
from collections.abc import Callable, Sequence

from torch import nn

from ...core.errors import HybridOptError, HybridOptWarning
from ...core.rank_group import Peers
from ...model.quantization.scales import scales
from ...model.roles import clean
from ...policy.plan import check_scheme
from ..parameters import Parameters
from .follow import Followed, follow
from .log import Log
from .measured import Measured
from .perturb import Perturbation
from .probes import Probes

__all__ = ["ProbeState"]

LOG = "zeroth_order"  # in state dicts


class ProbeState:
    """Zeroth-order state of one optimizer: the pending probe, whether a step may run, and the replay log.

    It knows no parameters; those of the optimizer are given to the methods that need them. What probes have found is
    in `measured`, plain numbers that the parameters' updates read.
    """

    def __init__(self, module: nn.Module | None):
        self._module = None if module is None else weakref.ref(module)
        self.measured = Measured()
        self._probes: Probes | None = None
        self._log: Log | None = None
        self._followed: list[Followed] = []
        self._agreed: Parameters | None = None  # with which ranks have compared their logs
        self.last: tuple[float, ...] | None = None  # projected gradients of the last step

    def follow(self, parameters: Parameters) -> None:
        """Take over the optimizer's parameters, after any change of its groups.

        Raises:
            HybridOptError: if they ask for probes by different schemes.
        """
        probed = parameters.shifts.probed()
        scheme = check_scheme((one.name, one.job.treatment) for one in probed)
        self.measured.wanted = scheme is not None
        if scheme is None:
            self._probes = None
            return
        work = {one.name: one.p for one in probed}
        module = None if self._module is None else self._module()
        owners = {} if module is None else {clean(n): m for n, m, _ in scales(module) if clean(n) in work}
        perturbation = Perturbation(work, module, owners)
        if perturbation.sharded and module is None:
            raise HybridOptError(
                f"parameter {probed[0].name!r} is trained by probes of a sharded model (fully_shard), of which the "
                "optimizer must know the modules: give HybridOptimizer(..., module=model), or take "
                "model.hybrid.optimizer()"
            )
        if self._probes is None or self._probes.scheme != scheme:
            self._probes = Probes(scheme, perturbation, self.measured)
        self._probes.use(perturbation)
        self._followed = follow(parameters)
        self.log = Log(scheme.samples) if self.log is None else self.log

    def reshard(self) -> None:
        """Free whole layers that FSDP2 keeps after a forward pass: shards are what is shifted, and updated."""
        if self._probes is not None:
            self._probes.reshard()

    @property
    def log(self) -> Log | None:
        """The record of all steps so far."""
        return self._log

    @log.setter
    def log(self, log: Log | None) -> None:
        self._log = log
        if log is not None:
            log.followed = self._followed

    def probe(
        self,
        parameters: Parameters,
        closures: Callable | Sequence[Callable],
        nonfinite: str,
        peers: Peers | None = None,
    ) -> float:
        """Measure losses at shifted weights for the next step, and return their mean; see `HybridOptimizer.probe`.

        Args:
            parameters: of the optimizer.
            closures: one that computes and returns the loss, or a list of them (micro-batches).
            nonfinite: what a loss that is not finite does: "raise", "skip" or "ignore".
            peers: the ranks that exchange losses; None: there are no others.
        """
        if self._probes is None or self._log is None:
            raise HybridOptError(
                "probe() is for policies with zeroth-order parts (mezo, addax, subzero ...), and this one has none: "
                "call loss.backward() and optimizer.step()"
            )
        if not self.measured.pending:
            parameters.shifts.check_trained()
            if self._agreed is not parameters:
                self._log.agree(peers)
                self._agreed = parameters
            self._log.begin(parameters.step)
            parameters.shifts.prepare(self._probes.scheme.samples)
        return self._probes.measure(parameters, closures, nonfinite, peers, self._log)

    def ready(self, parameters: Parameters) -> bool:
        """Return whether a step may go on; it may not without anything to do.

        torch.distributed.checkpoint steps with a learning rate of 0, and no probe, to get state that it can load into.

        Raises:
            HybridOptError: where probes are missing.
        """
        if self.measured.pending and self._log is not None:
            self._log.check()
        if not self.measured.wanted or self.measured.pending:
            return True
        still = all(float(group["lr"]) == 0 for group in parameters.groups())
        if still:
            parameters.allocate()
        if still:
            return False
        first_order = any(one.backward for one in parameters.windows.all())
        neither = ", and no gradient from a backward pass is there either" if not parameters.waiting() else ""
        before = " (beside loss.backward(), of another batch)" if first_order else ""
        raise HybridOptError(
            "this policy needs the loss at shifted weights, and nothing was measured since the last step"
            f"{neither if first_order else ''}: call optimizer.probe(loss_fn) before optimizer.step(){before}, or "
            "optimizer.step(loss_fn), where loss_fn() computes and returns the loss"
        )

    def unreached(self) -> frozenset[str]:
        """Return the names of the parameters that no evaluation has used so far, and look for them no more."""
        if self._probes is None:
            return frozenset()
        found = self._probes.unreached
        self._probes.settle()
        return found

    def skips(self) -> bool:
        """Return whether the step is to be left out; warn of it, where the probe has not."""
        skipping = self.measured.skipping
        if skipping and not self.measured.failed:
            warnings.warn("the projected gradient is not finite; the step is skipped", HybridOptWarning, stacklevel=4)
        return skipping

    def end(self, parameters: Parameters, skipped: bool) -> None:
        """Write a step that is done into the log; `skipped`: it was left out."""
        if not self.measured.pending or self._log is None:
            return
        slopes = self.measured.slopes if self.measured.slopes and not skipped else (math.nan,) * self._log.samples
        self._log.add(slopes, parameters.windows.sections)
        self._log.watch()
        eps = parameters.shifts.probed()[0].job.treatment.source.eps
        self.last = tuple(slope / eps for slope in slopes)

    def broken(self, why: str) -> None:
        """Give the log up, where there is one: weights were changed otherwise than by steps.

        why: what has happened.
        """
        if self._log is not None and len(self._log):
            self._log.give_up(f"{why} before step {len(self._log)}")

    def clear(self) -> None:
        """Forget what was measured: it is used up, or out of date."""
        if self._probes is not None:
            self._probes.clear()

    # ---- saving and loading

    def saved(self) -> dict:
        """Return what goes into the optimizer's state_dict."""
        return {} if self.log is None else {LOG: self.log.state()}

    def read(self, state_dict: dict) -> Log | None:
        """Return the log of a state_dict; one that is missing starts late, and says so when it is asked for."""
        if self.log is None:
            return None
        log = Log(self.log.samples)
        if LOG in state_dict:
            log.load(state_dict[LOG])
        return log

    def copy(self) -> "ProbeState":
        """Return the state for a copy of the optimizer, whose module is not known."""
        copy = ProbeState(None)
        copy._log, copy.last = None if self.log is None else self.log.copy(), self.last
        return copy
