"""What is measured between two steps: losses at shifted weights, and the slopes that they come to."""

import math
import statistics
import warnings
from dataclasses import replace

import torch

from ...core.contracts import ProbeScheme
from ...core.errors import HybridOptError, HybridOptWarning
from ...core.rank_group import Peers
from ...execution.probe_gradient import shifted
from ...model.fsdp.sharded_tensors import local
from ..parameters import Parameters
from .evaluate import Closures, Evaluator, values
from .intact import Left, advance
from .log import Log
from .measured import Measured
from .perturb import Perturbation, Shift
from .ranks import Exchanged, RankNews, exchange, telling

__all__ = ["Probes"]

UNUSED = (
    "the loss is the same wherever weights are shifted, and no parameter of this optimizer was used for it: loss_fn "
    "must compute the loss (lambda: model(**batch).loss, not return an earlier one) by the model that has these "
    "parameters; after switching adapters or replacing weights (load_state_dict(assign=True)) make a new optimizer"
)
Side = tuple[int, int]  # sign (0: not shifted), direction


class Probes:
    """The losses of one step, by the scheme that all parameters share; what they come to is written to `measured`.

    Several probes of a step, as of micro-batches, shift along the same directions, so their losses are averaged.

    Args:
        scheme: how many losses are wanted, and how they become slopes.
        perturbation: lets the model compute at shifted weights.
        measured: what was found, for the updates to read.
    """

    def __init__(self, scheme: ProbeScheme, perturbation: Perturbation, measured: Measured):
        self.scheme, self._measured, self._settled, self._flat = scheme, measured, False, False
        self.use(perturbation)
        self.clear()

    def use(self, perturbation: Perturbation) -> None:
        """Shift other parameters, or those of other modules, from now on."""
        self._evaluator = Evaluator(perturbation, looks=not self._settled)

    def reshard(self) -> None:
        """Free whole layers that FSDP2 keeps after a forward pass."""
        self._evaluator.reshard()

    @property
    def unreached(self) -> frozenset[str]:
        """Names of the parameters that no evaluation has used."""
        return self._evaluator.unreached

    def settle(self) -> None:
        """Look no more for such parameters."""
        self._settled = True
        self._evaluator.settle()

    def clear(self) -> None:
        """Forget all losses: a new step begins."""
        self._sums: list[float] = []
        self._count = 0
        self._factor = 1.0
        self._measured.clear()

    def measure(
        self, parameters: Parameters, closures: Closures, nonfinite: str, peers: Peers | None, log: Log
    ) -> float:
        """Evaluate the closures (their mean) wherever the scheme wants it, and return the mean loss.

        Running statistics, and other buffers of modules in training mode, move once, by the first evaluation; not
        where the optimizer takes gradients, too, whose forward pass moves them.

        Args:
            parameters: of the optimizer, which give the directions.
            closures: one that computes and returns the loss, or a list of them.
            nonfinite: what a loss that is not finite does: "raise", "skip" or "ignore".
            peers: the ranks that exchange losses; None: there are no others.
            log: of the run, which is broken on all ranks if it is on any.

        Raises:
            HybridOptError: for a loss that is not finite, unless asked otherwise.
        """
        if self.scheme.conservative and self._count:
            raise HybridOptError(
                "conservative=True tries its steps on all micro-batches together; give them to one probe, as a list"
            )
        shifts, self._peers, self._log = self._shifts(), peers, log
        found, left = self._seen(parameters, closures, [_shift(parameters, *shift) for shift in shifts])
        losses = found.losses
        finite = all(map(math.isfinite, losses))
        if not finite:
            self._not_finite(shifts, found, nonfinite, parameters.step)
        elif found.unused and len(set(losses)) == 1:
            raise HybridOptError(UNUSED)
        elif not self._measured.failed:
            self._sums = [a + b for a, b in zip(self._sums or [0.0] * len(losses), losses, strict=True)]
        self._count += 1
        if self.scheme.conservative and not self._measured.failed:
            self._choose(parameters, closures)
        self._measured.pending, self._measured.slopes = True, self._slopes()
        if finite and left and not any([one.backward for one in parameters.windows.all()]):
            advance(left)
        return statistics.fmean(losses) if self.scheme.two_sided else losses[0]

    def _seen(self, parameters, closures, shifts):
        """Do as `_losses` does; where losses begin to be the same, look whether any parameter is still in use."""
        found, left = self._losses(parameters, closures, shifts)
        before, self._flat = self._flat, len(set(found.losses)) == 1
        if self._flat and not before:
            self._evaluator.watch()
            found, left = self._losses(parameters, closures, shifts)
        return found, left

    def _slopes(self) -> tuple[float, ...] | None:
        """Work out the change of the loss along each direction, for a shift by eps z; None after a failure."""
        if self._measured.failed:
            return None
        losses = [total / self._count for total in self._sums]
        if self.scheme.two_sided:
            found = [(up - down) / 2 for up, down in zip(losses[::2], losses[1::2], strict=True)]
        else:
            found = [loss - losses[0] for loss in losses[1:]]
        spread = statistics.stdev(losses[1:]) if self.scheme.normalized else 1.0
        return tuple(_float32(self._factor * x / spread) if spread > 0 else 0.0 for x in found)

    def _shifts(self) -> list[Side]:
        both = [(sign, k) for k in range(self.scheme.samples) for sign in (1, -1)]
        return both if self.scheme.two_sided else [(0, 0), *((1, k) for k in range(self.scheme.samples))]

    def _losses(self, parameters, closures, shifts) -> tuple[Exchanged, Left]:
        """Average over all ranks, so that they take the same step; return what the first evaluation has left, too."""
        peers, evaluator = self._peers, self._evaluator
        mine = RankNews(parameters.step, evaluator.unused, self._log.broken is not None)
        with telling(peers, mine, len(shifts), evaluator.sharded):
            losses = evaluator.losses(closures, shifts)
        left, evaluator.left = evaluator.left, []
        found = exchange(peers, replace(mine, unused=evaluator.unused), losses)
        if found.breaks:
            self._log.agree(peers)
        return found, left

    def _choose(self, parameters, closures):
        """Choose of the step, its opposite and none the one with the lowest loss; without it there is no step."""
        slopes = self._slopes()
        factors = (1.0, 0.0, -1.0)
        try:
            found, _ = self._losses(parameters, closures, [_step(parameters, slopes, factor) for factor in factors])
        except BaseException:
            self.clear()
            raise
        known = [(loss, factor) for loss, factor in zip(found.losses, factors, strict=True) if math.isfinite(loss)]
        self._factor = min(known)[1] if known else 0.0

    def _not_finite(self, shifts, found, nonfinite, step):
        place = next(i for i, loss in enumerate(found.losses) if not math.isfinite(loss))
        sign, k = shifts[place]
        where = "theta" if not sign else f"theta {'+' if sign > 0 else '-'} eps z"
        which = f"(direction {k + 1} of {self.scheme.samples}){found.culprit(place)}"
        text = f"the loss at {where} is not finite at step {step} {which}"
        if nonfinite == "raise":
            raise HybridOptError(f"{text}; nothing was changed. Lower lr or eps, or pass nonfinite='skip'")
        self._measured.failed = True
        warnings.warn(f"{text}; the step is skipped", HybridOptWarning, stacklevel=4)


def _shift(parameters, sign: int, k: int) -> Shift:
    """Return the shift to theta + sign eps z_k."""

    def shift(name, p):
        found = parameters.shifts.shift(name, p, k) if sign else None
        return None if found is None else _moved(parameters, name, p, sign * found[0], found[1])

    return shift


def _step(parameters, slopes, factor) -> Shift:
    """Return the shift to theta - factor lr weight z: where a step of plain SGD would go."""

    def shift(name, p):
        found = parameters.shifts.sgd_step(name, p, slopes) if factor else None
        return None if found is None else _moved(parameters, name, p, -factor * found[0], found[1])

    return shift


def _moved(parameters, name, p, scale, noise):
    """Return a parameter, or this rank's rows of a sharded one, moved along a direction."""
    return shifted(values(local(p)), scale, noise, parameters.compiles, parameters.shifts.before(name, p))


def _float32(x):
    return torch.tensor(x, dtype=torch.float32, device="cpu").item()
