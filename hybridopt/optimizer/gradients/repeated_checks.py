"""Gradients that have the form that they had in the step before: read again without asking who takes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...core.contracts import Named, RepeatedCheck
from ...execution.dispatch import repeat_check
from ...execution.tensor_guards import LyingForm, readable

__all__ = ["FEW", "RepeatedChecks"]

FEW = 4  # parameters at once: for fewer, to see that nothing has changed takes as long as to ask again


class RepeatedChecks:
    """How the gradients of steps were read, by the first parameter of each.

    Whether numbers are finite depends on no window and no rule: a check is repeated wherever as many gradients have
    the dtypes and sizes that they had, and can be read by their addresses. What is not finite is checked by name.
    """

    def __init__(self) -> None:
        self._known: dict[str, _KnownCheck] = {}
        self._seen: dict[str, LyingForm] = {}  # of the last step

    def finite(self, work: Sequence[Named], compile: bool | int) -> bool:
        """Return whether gradients were read as in the last step, and all are finite; False: check them anew.

        Args:
            work: the parameters; their gradients are in `.grad`.
            compile: as `execution.dispatch` takes it.
        """
        known = self._known.get(work[0][0]) if work else None
        if known is None or known.compile != compile:
            return False
        grads: list[Any] = [p.grad for _, p in work]
        return known.form.fits(grads) and known.check.finite(grads)

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
        check = repeat_check(grads, compile) if before == form else None
        if check is not None:
            self._known[first] = _KnownCheck(compile, form, check)


@dataclass(frozen=True)
class _KnownCheck:
    """A check of gradients of one form."""

    compile: bool | int
    form: LyingForm
    check: RepeatedCheck
