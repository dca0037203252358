"""Whether all gradients are finite, found by reading each of them once, before anything is changed."""

from collections.abc import Iterable, Mapping

from ...execution.dispatch import WORTH_PRINTING, check_gradients
from ...execution.gradient_check import GradientCheck, UncheckedGradient
from ...model.placement.homes import all_near, home
from ..windows.resolved import Resolved
from . import reductions

__all__ = ["Checks", "check_finite"]

Checks = Mapping[str, GradientCheck]


def check_finite(resolved: Iterable[Resolved], compile: bool | int) -> tuple[str | None, Checks]:
    """Return the first parameter whose gradient has NaN or infinity, and what was found of gradients on the way.

    Args:
        resolved: the parameters; their gradients are in `.grad`.
        compile: as `execution.dispatch` takes it.
    """
    grads, near = [(one, one.p.grad) for one in resolved if one.p.grad is not None], all_near()
    few = sum(grad.numel() for _, grad in grads) < WORTH_PRINTING  # one call a step is worth more than one read
    apart = [few or one.share is not None or one.probed or one.idle or one.empty for one, _ in grads]
    unchecked = [
        UncheckedGradient(one.name, one.p, grad, one.own, one.store, not other and (near or home(one.p) is None))
        for (one, grad), other in zip(grads, apart, strict=True)
    ]
    found = check_gradients(unchecked, compile)
    rest = [(one.name, grad) for one, grad in grads if one.name not in found]
    bad = {name for name, one in found.items() if not one.finite}
    if rest and (other := reductions.not_finite(rest, reductions.sums(rest))) is not None:
        bad.add(other)
    return next((one.name for one, _ in grads if one.name in bad), None), found
