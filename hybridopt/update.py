"""The update of one parameter: the only function in which the axes meet."""

from dataclasses import dataclass

from torch import Tensor

from .base import State, Store
from .rounding import ahead
from .state import Job, basis, keep, load

__all__ = ["Now", "update"]


@dataclass(frozen=True)
class Now:
    """The numbers of one step: lr, weight decay, the state's age in steps (from 1), and a seed for rounding.

    `row` is where a slice begins in the parameter, in rows as `update` sees them.
    """

    lr: float | Tensor
    weight_decay: float
    age: int
    key: int
    row: int = 0


def update(param: Tensor, grad: Tensor, raw: State, job: Job, store: Store, now: Now) -> None:
    """param <- (1 - lr wd) param - lr (up(full(down(g))) + free_lr_scale free(rest(g))), state in place.

    All arithmetic is in `job.arithmetic` (float32, or float64 for float64 weights); `store` writes the weight.
    """
    t, part, at = job.treatment, job.part, basis(raw)
    grad = grad.to(job.arithmetic)
    low = part.down(grad, at)
    unread = getattr(t.free, "idle", False) and low is not grad  # then the rest need not be worked out
    rest = grad if unread else part.rest(grad, at)
    out = None if rest is None else t.free.update(rest, {}, _weight(t.free, param, job), now.age)
    if out is not None and t.free_lr_scale != 1:
        out.mul_(t.free_lr_scale)
    if low is not None:
        state, weight = load(job, raw), _weight(t.full, param, job)
        direction = t.full.update(low, state, None if weight is None else part.down(weight, at), now.age)
        keep(job, raw, state, now.key, now.row)
        out = part.up_(out, direction, at)
    key = ahead(now.key, now.row * param.shape[-1]) if now.row else now.key
    store.write_(param, out.mul_(now.lr * t.lr_scale), 1 - now.lr * now.weight_decay, key)


def _weight(rule, param, job):
    return param.to(job.arithmetic) if rule.reads_param else None
