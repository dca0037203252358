"""Gradients that have the form that they had in the step before: read again without asking who takes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...core.contracts import Named, RepeatedLook
from ...execution.run import repeat_look
from ...execution.tensor_guards import LyingForm, readable

__all__ = ["FEW", "RepeatedReads"]

FEW = 4  # parameters at once: for fewer, to see that nothing has changed takes as long as to ask again


class RepeatedReads:
    """How the gradients of steps were read, by the first parameter of each.

    Whether numbers are finite depends on no window and no rule: a look is repeated wherever as many gradients have the
    dtypes and sizes that they had, and can be read by their addresses. What is not finite is looked at anew, by name.
    """

    def __init__(self) -> None:
        self._known: dict[str, _KnownLook] = {}
        self._seen: dict[str, LyingForm] = {}  # of the last step

    def finite(self, work: Sequence[Named], compile: bool | int) -> bool:
        """Return whether gradients were read as in the last step, and all are finite; False: look at them anew.

        Args:
            work: the parameters; their gradients are in `.grad`.
            compile: as `execution.run` takes it.
        """
        known = self._known.get(work[0][0]) if work else None
        if known is None or known.compile != compile:
            return False
        grads: list[Any] = [p.grad for _, p in work]
        return known.form.fits(grads) and known.look.finite(grads)

    def learn(self, work: Sequence[Named], compile: bool | int) -> None:
        """Note how gradients are read that are finite, the second time that they have this form.

        Args:
            work: the parameters; of their gradients nothing is wanted but whether they are finite.
            compile: as in `finite`.
        """
        if len(work) < FEW:
            return
        grads: list[Any] = [p.grad for _, p in work]
        if not readable(grads) or len({grad.device for grad in grads}) > 1:
            return
        first, form = work[0][0], LyingForm.of(grads)
        before, self._seen[first] = self._seen.get(first), form
        look = repeat_look(grads, compile) if before == form else None
        if look is not None:
            self._known[first] = _KnownLook(compile, form, look)


@dataclass(frozen=True)
class _KnownLook:
    """A look at gradients of one form."""

    compile: bool | int
    form: LyingForm
    look: RepeatedLook
