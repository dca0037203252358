"""Every update within the backward pass."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock

import torch
from torch import Tensor

from ...core.contracts import Clipping, Named, Release, ReleasedParameters
from ...core.errors import HybridOptError, HybridOptWarning
from .. import conflicts, gradients
from ..clip import Clip
from ._readers import still_read
from ._update_all import update_all

__all__ = ["Fused"]


# After an error the gradient in question is gone, but those of held passes are not.
END = "After an error within the backward pass call optimizer.zero_grad(), then optimizer.step(), which ends that step"
Sizes = tuple[Tensor, Tensor]  # the 2-norm of a gradient, and its largest entry


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
    """

    name = "fused"
    frees_gradients = True

    def __init__(self, clip: Clipping):
        self.clip, self._holding, self._told = clip, 0, False
        self._lock = Lock()  # backward runs a thread for each device
        self._looked = False  # for containers
        self._kept: dict[str, Tensor | None] | None = None  # gradients held, while a pass only measures
        self._begin()

    def _begin(self):
        """Begin a new step."""
        self._norms: dict[str, Tensor] = {}  # of the parameters seen in this step
        self._measured: dict[str, Sizes] = {}
        self._size: Tensor | None = None  # of all measured gradients
        self._read: set[str] = set()  # weights that were still to be read when their gradient was there
        self._moved = self._skips = self._warned = False

    @property
    def midway(self) -> bool:
        """Return whether a gradient was used in this step, which `step()` has not ended yet."""
        return bool(self._norms)

    def hooks(self, idles: bool) -> bool:
        """Watch every parameter."""
        return True

    def check(self, work: Iterable[Named]) -> None:
        """Raise HybridOptError where something changes gradients after they are complete, as DDP does."""
        conflicts.check(work, self.name, containers=True)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Only add gradients up in `.grad` within this context; the step or the next backward pass uses the sum."""
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1

    def gradient_ready(self, parameters: ReleasedParameters, name: str, p: Tensor, nonfinite: str) -> None:
        """Update the parameter and free its gradient, unless it is held. Arguments as in `Release.gradient_ready`."""
        with self._lock:
            if parameters.drop_idle(name, p):
                return
            if self._kept is not None:
                self._measure(name, p)
            elif self._holding or conflicts.accumulating():
                return
            elif still_read(p):
                self._check_order(parameters, name, p)
                self._read.add(name)
            else:
                self._update(parameters, name, p, nonfinite)

    def reached(self, parameters: ReleasedParameters) -> set[str]:
        """Return the names of the parameters that were updated already, or wait for it."""
        return self._norms.keys() | super().reached(parameters)

    def finish(self, parameters: ReleasedParameters, nonfinite: str) -> tuple[bool, Tensor | None]:
        """Update what still has a gradient and what probes alone train; returns as `Release.finish` does."""
        work = parameters.due()
        if self._read and not self._told:
            self._say_kept(parameters)
        if self._norms:
            waiting = {n for n, _ in parameters.waiting()}
            for name, p in work:
                if name in waiting:
                    self._update(parameters, name, p, nonfinite)
            if self._moved:
                parameters.carry_out([(n, p) for n, p in work if n not in self._norms])  # by probes alone
            out = self._moved, gradients.total(self._norms[n] for n, _ in parameters.params() if n in self._norms)
        else:
            clip = self.clip if self.clip.limit is not None else Clip(float("inf"))
            out = update_all(parameters, work, clip, nonfinite)
        self._begin()
        return out

    def _say_kept(self, parameters):
        """Warn once where most gradients could not be freed: that is what this release is taken for."""
        kept = {n: p.numel() for n, p in parameters.waiting() if n in self._read}
        freed = sum(p.numel() for n, p in parameters.params() if n in self._norms)
        if sum(kept.values()) > freed:
            self._told = True
            warnings.warn(
                f"release='fused' has kept most gradients until step(), among them that of {next(iter(kept))!r}: "
                "weights are read once more without a gradient (detach()), or somebody keeps a graph (retain_graph) "
                "or a view (.data, .detach()) of them. Updates are right, but take the memory of 'accumulate'",
                HybridOptWarning,
                stacklevel=7,
            )

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
        gradients.check_dense([(name, p.grad)])
        norm = gradients.norm(p.grad)
        if self._skips or not self._sound(name, p.grad, norm, nonfinite, parameters.step):
            self._norms[name] = norm
            p.grad = None
            return
        size = parameters.previous if self.clip.mode == "previous" else self._size
        self.clip.scale_(p.grad, norm, size)
        if not self._moved:
            parameters.open_windows()
        self._norms[name], self._moved = norm, True
        parameters.carry_out([(name, p)])
        p.grad = None

    def _check_order(self, parameters, name, p):
        if name in self._norms:
            raise HybridOptError(
                f"a gradient of {name!r} arrives after its update in this step (step {parameters.step}); a step "
                "updates every parameter once. Several backward passes in a step: run all but the last in `with "
                f"optimizer.hold():`. A weight shared by checkpointed segments: use_reentrant=False. {END}"
            )
        if not self._norms:
            conflicts.check(parameters.params(), self.name, containers=not self._looked)
            if not self._looked and self.clip.limit is None:
                conflicts.check_clipping(parameters.groups(), self.name)
            self._looked = True
            if self.clip.mode_in_force == "global" and self._size is None:
                raise HybridOptError(
                    f"clip={self.clip.limit} by the norm of all gradients (clip_mode='global'): with release='fused' "
                    "it must be known before the backward pass: call optimizer.measure(loss) before loss.backward(), "
                    "or take clip_mode='previous' or 'tensor'"
                )

    def _sound(self, name, grad, norm, nonfinite, step):
        if nonfinite == "ignore" or gradients.not_finite([(name, grad)], [norm]) is None:
            return True
        text = f"the gradient of {name!r} is not finite at step {step}"
        if nonfinite == "raise":
            done = "nothing was changed"
            if self._moved:
                done = f"it is unchanged, but parameters after it in the network were updated in this step. {END}"
            raise HybridOptError(f"{text}; {done}. Lower lr, clip gradients, or pass nonfinite='skip'")
        self._warn(f"{text}; this parameter is skipped, as are others like it")
        return False

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
        work = [(n, p) for n, p in parameters.params() if p.requires_grad]
        sharded = any(hasattr(p, "to_local") for _, p in work)  # then the graph holds other tensors
        self._begin()
        self._kept = kept = {n: p.grad for n, p in work}
        for _, p in work:
            p.grad = None
        try:
            with torch.enable_grad():
                loss.backward(retain_graph=True, inputs=None if sharded else [p for _, p in work])
            rest = {n: _sizes(g) for n, g in kept.items() if g is not None and n not in self._measured}
        finally:
            for name, p in work:
                p.grad = kept[name]
            self._kept = None
        found = self._measured | rest
        self._size = gradients.total(found[n][0] for n, _ in work if n in found)
        self._judge(found, nonfinite, parameters.step)
        return self._size

    def _measure(self, name, p):
        if name in self._measured:
            raise HybridOptError(
                f"{name!r} gets two gradients in one backward pass; checkpoint with use_reentrant=False"
            )
        held = (self._kept or {}).get(name)
        grad = p.grad if held is None else held + p.grad
        self._measured[name], p.grad = _sizes(grad), None

    def _judge(self, found, nonfinite, step):
        """Raise HybridOptError, or let the step be skipped, if a measured gradient has NaN or infinity."""
        bad = next((n for n, (_, top) in found.items() if nonfinite != "ignore" and not top.isfinite()), None)
        if bad is None:
            return
        text = f"the gradient of {bad!r} is not finite at step {step}"
        if nonfinite == "raise":
            raise HybridOptError(f"{text}; nothing was changed. Lower lr, or pass nonfinite='skip'")
        self._skips = True
        self._warn(f"{text}; the step is skipped")


def _sizes(grad) -> Sizes:
    return gradients.norm(grad), gradients.whole(torch.linalg.vector_norm(grad, torch.inf))
