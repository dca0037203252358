"""The update of one parameter, or of one slice of its rows: the only functions in which all axes meet."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..core.contracts import Numbers, State, Store
from ..core.numerics.rounding import Seeding
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
    """The numbers of one step for one parameter or slice, floats or tensors of shape [].

    Args:
        lr: learning rate, times the treatment's `lr_scale`.
        decay: the factor of the weight, 1 - lr * weight decay.
        full: what the state-full rule's `numbers` says of the age of its state.
        free: the same of the state-free rule.
        key: a seed of the parameter that is the same in all steps.
        seeds: seeds for random rounding: of the weight (""), of its state-full part ("low") and of every slot.
        rows: by axis ("full", "free") and name, what `settle` returned for each row, [..., rows, 1].
        rest: by axis and name, what `settle` returned for the whole parameter.
    """

    lr: float | Tensor
    decay: float | Tensor
    full: Numbers
    free: Numbers
    key: int | Tensor
    seeds: Mapping[str, Seeding]
    rows: dict[str, State] = field(default_factory=dict)
    rest: dict[str, State] = field(default_factory=dict)

    def of(self, axis: str) -> dict:
        """Return everything that the rule of an axis, "full" or "free", is told: the `now` of its methods."""
        return {"key": self.key, **getattr(self, axis), **self.rows.get(axis, {}), **self.rest.get(axis, {})}


def update(param: Tensor, grad: Tensor, raw: State, job: Job, store: Store, now: Now) -> None:
    """Update one parameter: param <- decay param - lr (up(full(down(g))) + free_lr_scale free(rest(g))).

    This is the reference that every backend is held to. All arithmetic is in `job.arithmetic`: float32, or float64
    for float64 weights.

    Args:
        param: the weight, [*job.shape]; changed in place.
        grad: its gradient, [*job.shape], in any float dtype.
        raw: its state as `policy.job.declare` names it; changed in place.
        job: what is done to it in the current window.
        store: writes the weight, and rounds it.
        now: the numbers of this step.
    """
    for i in range(job.rounds):
        now = settle(i, look(i, param, grad, raw, job, now), raw, job, now)
    write(param, grad, raw, job, store, now)


def look(i: int, param: Tensor, grad: Tensor, raw: State, job: Job, now: Now) -> Looked:
    """Let every rule in force look at a slice of rows, in round `i`.

    Args:
        i: the round, from 0.
        param: rows of the weight.
        grad: the same rows of the gradient.
        raw: the state of these rows.
        job: what is done to the parameter.
        now: the numbers of this step, with what earlier rounds found.

    Returns:
        By axis ("full", "free") the rule's rows, [..., rows, 1] by name, and its sums over the rows.
    """
    found = {}
    for axis, rule in job.rules:
        if i < (rule.looks or 0):
            cut: Any = job.part.down if axis == "full" else job.part.rest
            state = load(job, raw, elementwise=True) if axis == "full" else {}
            weight = cut(param.to(job.arithmetic), basis(job, raw)) if rule.reads_param else None
            found[axis] = rule.look(i, cut(grad.to(job.arithmetic), basis(job, raw)), state, weight, now.of(axis))
    return found


def join(pieces: list[Looked], dim: int) -> Looked:
    """Join what `look` returned for slices along `dim` into what it would return for one piece: sums are added."""
    out = {}
    for axis, (rows, sums) in pieces[0].items():
        others = [piece[axis] for piece in pieces[1:]]
        out[axis] = (
            {name: _cat([x, *(o[0][name] for o in others)], dim) for name, x in rows.items()},
            {name: sum((o[1][name] for o in others), start=x) for name, x in sums.items()},
        )
    return out


def settle(i: int, looked: Looked, raw: State, job: Job, now: Now) -> Now:
    """End round `i`: update the state that belongs to the whole parameter from what all slices gave.

    Args:
        i: the round, from 0.
        looked: what `look` returned, joined over all slices.
        raw: the state of the parameter; what is no matrix of its elements changes in place.
        job: what is done to the parameter.
        now: the numbers of this step so far.

    Returns:
        `now` with the results of the round, which later rounds and `write` are told.
    """
    rows, rest = dict(now.rows), dict(now.rest)
    for axis, found in looked.items():
        state = load(job, raw, elementwise=False) if axis == "full" else {}
        more = job.treatment.rule(axis).settle(i, *found, state, now.of(axis))
        if axis == "full":
            keep(job, raw, state, now.seeds)
        rows[axis], rest[axis] = ({**old.get(axis, {}), **new} for old, new in zip((rows, rest), more, strict=True))
    return replace(now, rows=rows, rest=rest)


def write(param: Tensor, grad: Tensor, raw: State, job: Job, store: Store, now: Now) -> None:
    """Work out both directions for a slice of rows, join them, and write the weight.

    Where `job.separate` holds, no direction of the size of the slice is made to join them in.

    Args:
        param: rows of the weight; changed in place.
        grad: the same rows of the gradient.
        raw: the state of these rows; changed in place.
        job: what is done to the parameter in the current window.
        store: writes the weight, and rounds it.
        now: the numbers of this step, with the results of all rounds.
    """
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
    if not job.beside:
        store.write_(param, out, now.decay, now.seeds[""])
        return
    beside = {name: raw[key] for name, key in job.beside.items()}
    store.write_beside_(param, beside, out, now.decay, now.seeds[""])


def write_low(param: Tensor, grad: Tensor, raw: State, job: Job, store: Store, now: Now) -> Tensor:
    """Return the updated state-full part of the weight; its state changes, the weight itself does not.

    `job.part.up_` puts it into the weight, after `write_free_`.

    Args:
        param: rows of the weight.
        grad: the same rows of the gradient.
        raw: the state of these rows; changed in place.
        job: what is done to the parameter in the current window.
        store: rounds the weight.
        now: the numbers of this step, with the results of all rounds.
    """
    at = basis(job, raw)
    down: Any = job.part.down  # of a state-full part, so there is something
    chosen, low = down(param, at), down(grad, at)
    store.write_(chosen, _full(low.to(job.arithmetic), chosen, raw, job, now), now.decay, now.seeds["low"])
    return chosen


def write_free_(param: Tensor, grad: Tensor, raw: State, job: Job, store: Store, now: Now) -> None:
    """Make the state-free update on all entries of the weight; `job.part.up_` then overwrites the state-full ones.

    Args:
        param: rows of the weight; changed in place.
        grad: the same rows of the gradient.
        raw: the state of these rows; not read.
        job: what is done to the parameter in the current window.
        store: writes the weight, and rounds it.
        now: the numbers of this step, with the results of all rounds.
    """
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
