"""Trained weights that rest elsewhere: what can be trained there, and updates that are made when they are fetched."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from ..core.errors import HybridOptError
from ..execution.probe_gradient import ProbeGradient
from ..execution.probe_updates import run_estimated
from ..execution.update_task import Task
from ..model.placement.guarding.moving import not_trained
from ..model.placement.homes import check_kept, home
from .windows.resolved import Resolved

__all__ = ["check_resting", "deferred"]


def check_resting(work: Iterable[Resolved]) -> None:
    """Raise HybridOptError for parameters that rest elsewhere and cannot be trained there.

    work: the parameters of an optimizer.
    """
    for one in work:
        found = home(one.p)
        if found is None:
            continue
        if one.backward or not one.probed:
            raise HybridOptError(not_trained(found.placement.base, one.name), "placement")
        if one.slots:
            raise HybridOptError(
                f"parameter {one.name!r} rests on {'disk' if found.placement.base == 'disk' else 'the host'}, and its "
                f"rule keeps state of its size ({', '.join(sorted(one.slots))}): take one without (policy='mezo', "
                "'fzoo', 'lezo', 'subzero', 'zo_signsgd'), or leave placement out"
            )
        check_kept(one.name, one.p, "is to be trained")


def deferred(task: Task, p: Tensor, compile: bool) -> Callable[[], None]:
    """Return the update of a weight that rests elsewhere, to be made when it is near; with the bits of an update now.

    Args:
        task: the update, whose weight is not read.
        p: the parameter.
        compile: may it be compiled?
    """
    task = replace(task, param=task.param.new_empty(0), lr=_fixed(task.lr), decay=_fixed(task.decay))

    def carry_out() -> None:
        weight = p.data
        param = weight.reshape(task.job.shape).contiguous()
        grad: Any = replace(cast(ProbeGradient, task.grad), device=weight.device)
        run_estimated(replace(task, param=param, grad=grad), compile)
        if param.data_ptr() != weight.data_ptr():
            weight.copy_(param.view(weight.shape))

    return carry_out


def _fixed(number: float | Tensor) -> float | Tensor:
    """Return a number that nobody changes, as schedulers change tensors."""
    return number.clone() if isinstance(number, Tensor) else number
