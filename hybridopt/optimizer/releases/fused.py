"""Every update within the backward pass."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock

from torch import Tensor

from ...core.contracts import Clipping, Named, Release, ReleasedParameters
from ...core.errors import HybridOptError, HybridOptWarning
from .. import conflicts
from ..gradients import reductions
from ..gradients.clip import Clip
from ..saved_for_backward import still_read
from ._flags import Flags, reading_waits
from ._kept import KeptGradients
from ._measuring import Measuring
from ._update_all import update_all

__all__ = ["Fused"]


# After an error the gradient in question is gone, but those of held passes are not.
END = "After an error within the backward pass call optimizer.zero_grad(), then optimizer.step(), which ends that step"
UPDATED = "updated in this step"
ONCE_MORE = "Call optimizer.zero_grad(), then optimizer.step() once more, which ends that step"


class Fused(Release):
    """Update each parameter, and free its gradient, as soon as that is complete (LOMO, Lv et al. 2023, Alg. 1).

    So gradients never take more than one parameter's bytes. `step()` updates what still has a gradient (after held
    passes, or given by hand) and moves the clock. Exactly one update a parameter and step: a second gradient is an
    error. A sum over several backward passes must be kept somewhere until the last, as all of them must see the same
    weights and most rules read the sum's square or sign: `hold` keeps it in `.grad`, and is the one exact way. (Plain
    momentum could take it in pieces, into a float32 buffer, which saves nothing over `.grad`'s own sum in bfloat16.)
    The gradient of a weight that is still to be read in the backward pass, as it was used through `detach()` or in a
    graph that is kept, waits in `.grad` for `step()`. (That cannot be foreseen of a checkpointed segment that reads,
    through `detach()` alone, a weight of a later one: it is recomputed with the weight as it is by then.)

    Nobody waits for a GPU in the backward pass: an update there is guarded by a flag on the device, whether its
    gradient is finite. The flags are read in `step()`, which then raises or warns as `nonfinite` says.
    """

    name = "fused"
    frees_gradients = True

    def __init__(self, clip: Clipping):
        self.clip, self._holding, self._kept = clip, 0, KeptGradients()
        self._lock = Lock()  # backward runs a thread for each device
        self._loop_known = False  # for who runs the loop
        self._measuring: Measuring | None = None  # while a pass only measures
        self._begin()

    def _begin(self):
        """Begin a new step."""
        self._norms: dict[str, Tensor] = {}  # of the parameters seen in this step
        self._updated: set[str] = set()  # those of them that were updated, if their flag is not False
        self._flags = Flags()
        self._size: Tensor | None = None  # of all measured gradients
        self._kept.begin()
        self._skips = self._warned = False

    @property
    def midway(self) -> bool:
        """Return whether a gradient was used in this step, which `step()` has not ended yet."""
        return bool(self._norms)

    def hooks(self, idles: bool) -> bool:
        """Watch every parameter."""
        return True

    def check(self, work: Iterable[Named]) -> None:
        """Raise HybridOptError where something changes gradients after they are complete, as FSDP1 does."""
        conflicts.check(work, self.name, containers=True)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Only add gradients up in `.grad` within this context; the step or the next backward pass uses the sum."""
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1

    def gradient_ready(
        self, parameters: ReleasedParameters, name: str, p: Tensor, nonfinite: str, read: bool | None = None
    ) -> None:
        """Update the parameter and free its gradient, unless it is held. Arguments as in `Release.gradient_ready`."""
        with self._lock:
            if parameters.drop_idle(name, p):
                return
            if not self._loop_known:
                conflicts.check_loop(parameters, self.name, self.clip.limit is not None)
                self._loop_known = True
            if self._measuring is not None:
                self._measuring.add(name, p)
            elif self._holding or conflicts.accumulating():
                return
            elif still_read(p) if read is None else read:
                self._check_order(parameters, name, p)
                self._kept.add(name)
            else:
                self._update(parameters, name, p, nonfinite)

    def reached(self, parameters: ReleasedParameters) -> set[str]:
        """Return the names of the parameters that were updated already, or wait for it."""
        return self._norms.keys() | super().reached(parameters)

    def finish(self, parameters: ReleasedParameters, nonfinite: str) -> tuple[bool, Tensor | None]:
        """Update what still has a gradient and what probes alone train; returns as `Release.finish` does."""
        work = parameters.due()
        self._kept.warn(parameters, self._norms.keys())
        if self._norms:
            waiting = {n for n, _ in parameters.waiting()}
            for name, p in work:
                if name in waiting:
                    self._update(parameters, name, p, nonfinite)
            self._read_flags(parameters, nonfinite)
            if self._updated:
                parameters.carry_out([(n, p) for n, p in work if n not in self._norms])  # by probes alone
            norms = (self._norms[n] for n, _ in parameters.params() if n in self._norms)
            out = bool(self._updated), reductions.total(norms)
        else:
            clip = self.clip if self.clip.limit is not None else Clip(float("inf"))
            out = update_all(parameters, work, clip, nonfinite)
        self._begin()
        return out

    def drop(self) -> None:
        """Begin a new step."""
        self._begin()

    # ---- one parameter

    def _update(self, parameters, name, p, nonfinite):
        try:
            self._carry_out(parameters, name, p, nonfinite)
        except HybridOptError:
            p.grad = None  # so that step() can end the step
            raise

    def _carry_out(self, parameters, name, p, nonfinite):
        self._check_order(parameters, name, p)
        if parameters.skips(name):
            p.grad = None
            return
        reductions.check_dense([(name, p.grad)])
        norm = reductions.norm(p.grad)
        sound = self._sound(parameters, name, p, norm, nonfinite)
        if sound is True and not reading_waits(norm.device) and norm.isinf():
            (norm,) = reductions.fitting([(name, p.grad)], [norm])
        self._norms[name] = norm
        if sound is not False:
            size = parameters.previous if self.clip.mode == "previous" else self._size
            self.clip.scale_(p.grad, norm, size)
            if not self._updated:
                parameters.open_windows()
            self._updated.add(name)
            parameters.carry_out([(name, p)], None if sound is True else sound)
        p.grad = None

    def _check_order(self, parameters, name, p):
        if name in self._norms:
            raise HybridOptError(
                f"a gradient of {name!r} arrives after its update in this step (step {parameters.step}); a step "
                "updates every parameter once. Several backward passes in a step: run all but the last in `with "
                f"optimizer.hold():`. A weight shared by checkpointed segments: use_reentrant=False. {END}"
            )
        if not self._norms:
            conflicts.check(parameters.params(), self.name, containers=False)
            if self.clip.mode_in_force == "global" and self._size is None:
                raise HybridOptError(
                    f"clip={self.clip.limit} by the norm of all gradients (clip_mode='global'): with release='fused' "
                    "it must be known before the backward pass: call optimizer.measure(loss) before loss.backward(), "
                    "or take clip_mode='previous' or 'tensor'"
                )

    def _sound(self, parameters, name, p, norm, nonfinite) -> bool | Tensor:
        """Return whether the gradient may be used: as a flag on its device, where reading one would have to wait."""
        if self._skips or nonfinite == "ignore":
            return not self._skips
        if reading_waits(norm.device):
            return self._flags.add(name, norm)
        if reductions.not_finite([(name, p.grad)], [norm]) is None:
            return True
        self._refuse(name, parameters.step, nonfinite, f"parameters after it in the network were {UPDATED}. {END}")
        return False

    def _read_flags(self, parameters, nonfinite):
        """Raise HybridOptError, or warn, if the updates of some parameters were left out by their flags."""
        bad = self._flags.not_finite()
        parameters.take_back(self._updated.intersection(bad))
        self._updated.difference_update(bad)
        if bad:
            self._norms = {n: x for n, x in self._norms.items() if nonfinite != "raise" or n not in bad}
            self._refuse(bad[0], parameters.step, nonfinite, f"other parameters were {UPDATED}. {ONCE_MORE}")

    def _refuse(self, name, step, nonfinite, others):
        """Raise HybridOptError, or warn, of a gradient that is not finite; `others`: what this step has changed."""
        text = f"the gradient of {name!r} is not finite at step {step}"
        if nonfinite == "raise":
            done = f"it is unchanged, but {others}" if self._updated else "nothing was changed"
            raise HybridOptError(f"{text}; {done}. Lower lr, clip gradients, or pass nonfinite='skip'")
        self._warn(f"{text}; this parameter is skipped, as are others like it")

    def _warn(self, text):
        if not self._warned:
            warnings.warn(text, HybridOptWarning, stacklevel=2)
        self._warned = True

    # ---- a pass that only measures

    def measure(self, parameters: ReleasedParameters, loss: Tensor, nonfinite: str) -> Tensor | None:
        """Work out the norm of all gradients of `loss`, held ones included, by a backward pass that keeps none.

        Arguments as in `Release.measure`. Raises HybridOptError in the middle of a step, and for NaN or infinity.
        """
        if self.midway:
            raise HybridOptError("measure() comes before loss.backward(); end this step with optimizer.step() first")
        self._begin()
        measuring = Measuring((n, p) for n, p in parameters.params() if p.requires_grad)
        self._measuring = measuring
        try:
            measuring.run(loss)
        finally:
            self._measuring = None
        self._size = measuring.total()
        bad = None if nonfinite == "ignore" else measuring.not_finite()
        if bad is not None:
            self._judge(bad, nonfinite, parameters.step)
        return self._size

    def _judge(self, bad, nonfinite, step):
        """Raise HybridOptError, or let the step be skipped, as a measured gradient has NaN or infinity."""
        text = f"the gradient of {bad!r} is not finite at step {step}"
        if nonfinite == "raise":
            raise HybridOptError(f"{text}; nothing was changed. Lower lr, or pass nonfinite='skip'")
        self._skips = True
        self._warn(f"{text}; the step is skipped")
