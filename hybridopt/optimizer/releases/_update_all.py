"""The update of all parameters at once, which releases share."""

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...core.contracts import Clipping, Named, ReleasedParameters
from ...core.errors import HybridOptError, HybridOptWarning
from ..gradients import reductions

__all__ = ["update_all"]


def update_all(
    parameters: ReleasedParameters, work: list[Named], clip: Clipping, nonfinite: str
) -> tuple[bool, Tensor | None]:
    """Update every parameter of `work`, or none.

    Args:
        parameters: those of the optimizer.
        work: the parameters that this step updates.
        clip: the limit on their gradients.
        nonfinite: what NaN or infinity in a gradient does: "raise", "skip" (none is updated) or "ignore".

    Returns:
        Whether they were updated; the norm of all gradients before clipping, shape [], None where `clip` has no limit.
    """
    if not work:
        return parameters.pass_turn(), None
    with_gradient = {n for n, _ in parameters.waiting()}
    some = [(n, p) for n, p in work if n in with_gradient]
    grads = [(n, p.grad) for n, p in some if p.grad is not None]
    reductions.check_dense(grads)
    ignored = nonfinite == "ignore"
    norms = reductions.norms(grads) if clip.limit is not None else []
    bad: str | None = None
    checks: Mapping[str, Any] = {}
    if norms:  # they show NaN and infinity, and nothing is read twice
        bad, norms = (None, reductions.fitting(grads, norms)) if ignored else reductions.judged(grads, norms)
    elif not ignored:
        bad, checks = parameters.check(some)
    if bad is not None:
        _refuse(bad, nonfinite, parameters.step)
        return False, None
    norm = reductions.total(norms)
    size = parameters.previous if clip.mode == "previous" else norm
    for (_, grad), own in zip(grads, norms, strict=False):
        clip.scale_(grad, own, size)
    parameters.open_windows()
    parameters.carry_out(work, checks=checks)
    return True, norm


def _refuse(name, nonfinite, step):
    """Raise HybridOptError, or warn, of a gradient that is not finite, as `nonfinite` says."""
    text = f"the gradient of {name!r} is not finite at step {step}"
    if nonfinite == "raise":
        raise HybridOptError(f"{text}; nothing was changed. Lower lr, clip gradients, or pass nonfinite='skip'")
    warnings.warn(f"{text}; the step is skipped", HybridOptWarning, stacklevel=7)
