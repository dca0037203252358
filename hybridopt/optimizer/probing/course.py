"""The zeroth-order side of an optimizer: probes, what a step waits for, and the log."""

import math
import warnings
import weakref
from collections.abc import Callable, Sequence

from torch import nn

from ...core.errors import HybridOptError, HybridOptWarning
from ...model.quantization.opened import scales
from ...model.roles import clean
from ...policy.plan import check_scheme
from .follow import Followed, follow
from .log import Log
from .perturb import Perturbation
from .probes import Probes

__all__ = ["Course"]

LOG = "zeroth_order"  # in state dicts


class Course:
    """Losses are measured, a step uses them up, and the log remembers them."""

    def __init__(self, module: nn.Module | None):
        self._module = None if module is None else weakref.ref(module)
        self._probes: Probes | None = None
        self._log: Log | None = None
        self._followed: list[Followed] = []
        self.last: tuple[float, ...] | None = None  # projected gradients of the last step

    def look_anew(self, updates) -> None:
        """After any change of the groups."""
        scheme = check_scheme((n, updates.treatment(n)) for n, _ in updates.params())
        if scheme is None:
            self._probes = None
            return
        work = {n: p for n, p in updates.params() if updates.treatment(n).probed}
        module = None if self._module is None else self._module()
        owners = {} if module is None else {clean(n): m for n, m, _ in scales(module) if clean(n) in work}
        perturbation = Perturbation(work, module, owners)
        if self._probes is None or self._probes.scheme != scheme:
            self._probes = Probes(scheme, perturbation)
        self._probes.look_at(perturbation)
        self._followed = follow(updates)
        self.log = Log(scheme.samples) if self.log is None else self.log

    @property
    def log(self) -> Log | None:
        """What was measured, and done, so far."""
        return self._log

    @log.setter
    def log(self, log: Log | None) -> None:
        self._log = log
        if log is not None:
            log.followed = self._followed

    @property
    def wanted(self) -> bool:
        """Does any parameter take probes?"""
        return self._probes is not None

    @property
    def pending(self) -> bool:
        """Has anything been measured for the next step?"""
        return self.wanted and self._probes.pending

    @property
    def skipping(self) -> bool:
        """Was something measured that is not finite?"""
        return self.pending and (self._probes.skips or not all(map(math.isfinite, self._probes.slopes)))

    @property
    def slopes(self) -> tuple[float, ...] | None:
        """Along the directions of this step; None before any probe."""
        return self._probes.slopes if self.wanted else None

    def probe(self, updates, closures: Callable | Sequence[Callable], nonfinite: str) -> float:
        """Measure; see `HybridOptimizer.probe`."""
        if not self.wanted:
            raise HybridOptError(
                "probe() is for policies with zeroth-order parts (mezo, addax, subzero ...), and this one has none: "
                "call loss.backward() and optimizer.step()"
            )
        if not self.pending:
            updates.check_trained()
            self.log.begin(updates.step)
            updates.prepare(self._probes.scheme.samples)
        return self._probes.measure(updates, closures, nonfinite)

    def ready(self, updates) -> bool:
        """May a step go on? Not without anything to do. Raises HybridOptError where probes are missing.

        torch.distributed.checkpoint steps with a learning rate of 0, and no probe, to get state that it can load into.
        """
        if self.pending:
            self.log.check()
        if not self.wanted or self.pending:
            return True
        still = all(float(group["lr"]) == 0 for group in updates.groups())
        first_order = any(updates.treatment(n).source.backward for n, _ in updates.params())
        if still:
            updates.allocate()
        if still or (first_order and not updates.waiting()):
            return False
        raise HybridOptError(
            "this policy needs the loss at shifted weights, and nothing was measured since the last step: call "
            "optimizer.probe(loss_fn) before optimizer.step(), or optimizer.step(loss_fn), where loss_fn() computes "
            "and returns the loss"
        )

    def skips(self) -> bool:
        """Is the step to be left out? Says so, where the probe has not."""
        if self.skipping and not self._probes.skips:
            warnings.warn("the projected gradient is not finite; the step is skipped", HybridOptWarning, stacklevel=4)
        return self.skipping

    def end(self, updates, skipped: bool) -> None:
        """The step is done: write it down."""
        if not self.pending:
            return
        slopes = (math.nan,) * self.log.samples if skipped else self.slopes
        self.log.add(slopes, updates.groups())
        self.log.watch()
        eps = next(updates.treatment(n).source.eps for n, _ in _probed(updates))
        self.last = tuple(slope / eps for slope in slopes)

    def clear(self) -> None:
        """What was measured is used up, or out of date."""
        if self.wanted:
            self._probes.clear()

    # ---- saving and loading

    def saved(self) -> dict:
        """For the optimizer's state_dict."""
        return {} if self.log is None else {LOG: self.log.state()}

    def read(self, state_dict: dict) -> Log | None:
        """The log of a state_dict; one that is missing starts late, and says so when it is asked for."""
        if self.log is None:
            return None
        log = Log(self.log.samples)
        if LOG in state_dict:
            log.load(state_dict[LOG])
        return log

    def copy(self) -> "Course":
        """For copies of the optimizer, whose module is not known."""
        copy = Course(None)
        copy._log, copy.last = None if self.log is None else self.log.copy(), self.last
        return copy


def _probed(updates):
    return [(n, p) for n, p in updates.params() if updates.treatment(n).probed]
