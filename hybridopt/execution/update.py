"""The update of one parameter, or of one slice of its rows: the only functions in which the axes meet."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..core.contracts import Numbers, State, Store
from ..core.numerics.rounding import Seed
from ..policy.job import Job
from .state import basis, keep, load

__all__ = [
    "Now",
    "join",
    "look",
    "settle",
    "update",
    "write",
    "write_free_",
    "write_low",
]

Looked = dict[str, tuple[State, State]]  # by axis: rows, sums


@dataclass(frozen=True)
class Now:
    """The numbers of one step, floats or tensors of shape []: lr, decay (1 - lr * weight decay), and each rule's own.

    key: of the parameter, the same in all steps. seeds: for rounding, of the weight (""), of its state-full part
    ("low") and of every slot. rows, rest: what rules that look at the whole parameter have found, by axis.
    """

    lr: float | Tensor
    decay: float | Tensor
    full: Numbers
    free: Numbers
    key: int | Tensor
    seeds: dict[str, Seed]
    rows: dict[str, State] = field(default_factory=dict)
    rest: dict[str, State] = field(default_factory=dict)

    def of(self, axis: str) -> dict:
        """Everything that a rule is told."""
        return {"key": self.key, **getattr(self, axis), **self.rows.get(axis, {}), **self.rest.get(axis, {})}


def update(param: Tensor, grad: Tensor, raw: State, job: Job, store: Store, now: Now) -> None:
    """param <- decay param - lr (up(full(down(g))) + free_lr_scale free(rest(g))), state in place.

    All arithmetic is in `job.arithmetic` (float32, or float64 for float64 weights); `store` writes the weight.
    """
    for i in range(job.rounds):
        now = settle(i, look(i, param, grad, raw, job, now), raw, job, now)
    write(param, grad, raw, job, store, now)


def look(i: int, param: Tensor, grad: Tensor, raw: State, job: Job, now: Now) -> Looked:
    """Round `i` of every rule, on a slice of rows."""
    found = {}
    for axis, rule in job.rules:
        if i < (rule.looks or 0):
            cut = job.part.down if axis == "full" else job.part.rest
            state = load(job, raw, elementwise=True) if axis == "full" else {}
            weight = cut(param.to(job.arithmetic), basis(job, raw)) if rule.reads_param else None
            found[axis] = rule.look(i, cut(grad.to(job.arithmetic), basis(job, raw)), state, weight, now.of(axis))
    return found


def join(pieces: list[Looked], dim: int) -> Looked:
    """What was found in slices along `dim`, as if it had been found in one piece: rows joined, sums added."""
    out = {}
    for axis, (rows, sums) in pieces[0].items():
        others = [piece[axis] for piece in pieces[1:]]
        out[axis] = (
            {name: _cat([x, *(o[0][name] for o in others)], dim) for name, x in rows.items()},
            {name: sum((o[1][name] for o in others), start=x) for name, x in sums.items()},
        )
    return out


def settle(i: int, looked: Looked, raw: State, job: Job, now: Now) -> Now:
    """End round `i`: state that is no matrix moves, and what the rules have learnt is added to `now`."""
    rows, rest = dict(now.rows), dict(now.rest)
    for axis, found in looked.items():
        state = load(job, raw, elementwise=False) if axis == "full" else {}
        more = job.treatment.rule(axis).settle(i, *found, state, now.of(axis))
        if axis == "full":
            keep(job, raw, state, now.seeds)
        rows[axis], rest[axis] = ({**old.get(axis, {}), **new} for old, new in zip((rows, rest), more, strict=True))
    return replace(now, rows=rows, rest=rest)


def write(param: Tensor, grad: Tensor, raw: State, job: Job, store: Store, now: Now) -> None:
    """Both directions, joined and written, on a slice of rows."""
    if store.block == 1 and job.separate:
        chosen = write_low(param, grad, raw, job, store, now)
        write_free_(param, grad, raw, job, store, now)
        job.part.up_(param, chosen, basis(job, raw))
        return
    t, part, at = job.treatment, job.part, basis(job, raw)
    grad = grad.to(job.arithmetic)
    if part.covers:
        out = _full(grad, param, raw, job, now)
    elif job.low is None:
        out = _free(grad, param, job, now)
    else:
        out = grad.new_zeros(grad.shape) if t.free.idle else _free(part.rest(grad, at), param, job, now)
        weight = part.down(param.to(job.arithmetic), at) if t.full.reads_param else None
        out = part.up_(out, _full(part.down(grad, at), weight, raw, job, now), at)
    store.write_(param, out, now.decay, now.seeds[""])


def write_low(param: Tensor, grad: Tensor, raw: State, job: Job, store: Store, now: Now) -> Tensor:
    """The state-full part of the parameter, with its update; the parameter itself is left alone."""
    at = basis(job, raw)
    chosen, low = job.part.down(param, at), job.part.down(grad, at)
    store.write_(chosen, _full(low.to(job.arithmetic), chosen, raw, job, now), now.decay, now.seeds["low"])
    return chosen


def write_free_(param: Tensor, grad: Tensor, raw: State, job: Job, store: Store, now: Now) -> None:
    """The state-free update of the whole parameter, for its state-full part to be overwritten."""
    if job.treatment.free.idle:
        if isinstance(now.decay, Tensor) or now.decay != 1:
            store.write_(param, torch.zeros((), dtype=job.arithmetic, device=param.device), now.decay, now.seeds[""])
        return
    out = _free(grad.to(job.arithmetic), param, job, now)
    store.write_(param, out, now.decay, now.seeds[""])


def _full(low, weight, raw, job, now):
    rule, state = job.treatment.full, load(job, raw, elementwise=True)
    out = rule.update(low, state, weight.to(job.arithmetic) if rule.reads_param else None, now.of("full"))
    keep(job, raw, state, now.seeds)
    return out.mul_(now.lr)


def _free(rest, param, job, now):
    rule, scale = job.treatment.free, job.treatment.free_lr_scale
    out = rule.update(rest, {}, param.to(job.arithmetic) if rule.reads_param else None, now.of("free"))
    return out.mul_(now.lr * scale)


def _cat(tensors, dim):
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)
