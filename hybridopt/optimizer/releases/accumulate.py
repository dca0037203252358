"""All updates in `step()`."""

import warnings
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from ...core.errors import HybridOptError, HybridOptWarning
from .. import gradients
from ..parameters import Parameters, Work
from .clip import Clip

__all__ = ["Accumulate", "update_all"]


class Accumulate:
    """Gradients are kept until `step()` updates everything at once; only those of idle parameters go at once."""

    fused = False

    def __init__(self, clip: Clip):
        self.clip = clip

    def hold(self) -> AbstractContextManager:
        """Gradients are kept anyway."""
        return nullcontext()

    def hooks(self, idles: bool) -> bool:
        """Must a parameter be watched? idles: does it stand still at times?"""
        return idles

    def check(self, work: list[Work]) -> None:
        """Any parameter will do."""

    def receive(self, updates: Parameters, name: str, p: Tensor, nonfinite: str) -> None:
        """A gradient is complete: keep it, unless the parameter stands still."""
        if updates.idle(name, p):
            p.grad = None

    def measure(self, updates: Parameters, loss: Tensor, nonfinite: str) -> None:
        """Nothing to do: all gradients are there when the step needs their norm."""

    def finish(self, updates: Parameters, nonfinite: str) -> tuple[bool, Tensor | None]:
        """The step: was anything updated, and the norm of all gradients where it had to be worked out."""
        return update_all(updates, updates.due(), self.clip, nonfinite)

    def drop(self) -> None:
        """The step is left out; gradients stay where they are, for `zero_grad`."""

    @property
    def midway(self) -> bool:
        """Is a step half done?"""
        return False


def update_all(updates: Parameters, work: list[Work], clip: Clip, nonfinite: str) -> tuple[bool, Tensor | None]:
    """Update every parameter of `work`, or none: True or False, and the norm of all gradients if it clips."""
    with_gradient = {n for n, _ in updates.waiting()}
    grads = [(n, p.grad) for n, p in work if n in with_gradient]
    gradients.check_dense(grads)
    norms = [gradients.norm(g) for _, g in grads] if clip.limit is not None else []
    if not work or not _sound(grads, norms, nonfinite, updates.step):
        return False, None
    norm = gradients.total(norms)
    size = updates.previous if clip.mode == "previous" else norm
    for (_, grad), own in zip(grads, norms, strict=False):
        clip.scale_(grad, own, size)
    updates.turn()
    updates.carry_out(work)
    return True, norm


def _sound(grads, norms, nonfinite, step):
    """May the step go on? Raises HybridOptError or warns, as `nonfinite` says, for NaN and infinity."""
    bad = None if nonfinite == "ignore" else gradients.not_finite(grads, norms or gradients.sums(grads))
    if bad is None:
        return True
    text = f"the gradient of {bad!r} is not finite at step {step}"
    if nonfinite == "raise":
        raise HybridOptError(f"{text}; nothing was changed. Lower lr, clip gradients, or pass nonfinite='skip'")
    warnings.warn(f"{text}; the step is skipped", HybridOptWarning, stacklevel=7)
    return False
