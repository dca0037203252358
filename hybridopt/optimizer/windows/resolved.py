"""One parameter in one window of steps: what all its updates share until the window ends."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.contracts import Slot, Store
from ...execution.sharded import work_division
from ...execution.sharded.work_division import Share
from ...model.roles import codes_dtype
from ...policy.job import Job, declare

__all__ = ["Resolved", "resolve"]


@dataclass(eq=False, slots=True)
class Resolved:
    """A parameter with all that follows from its treatment and from the window that its group is in.

    Args:
        name: of the parameter, as in `param_names`.
        p: the parameter.
        group: its param group, whose numbers (lr, weight_decay, step) may change at every step.
        window: the window for which this holds.
        begin: the first step of it.
        end: the step after its last.
        gap: the split's `update_gap`: steps of the first window, 0 for only one.
        job: the update of the whole parameter.
        own: what is carried out on this rank: `job` itself, or the update of its rows of a sharded parameter.
        slots: the raw state tensors that are kept, by name; of a sharded parameter as this rank keeps them.
        store: what writes the weight; None if none keeps its dtype, as after a conversion by others.
        dtype: of the parameter when this was worked out.
        share: what this rank does for a sharded parameter; None for a plain tensor.
        empty: has it no element?
        backward: does it take a gradient from the backward pass?
        probed: does it take one from probes of the loss?
        idle: is it left alone in this window?
    """

    name: str
    p: Tensor
    group: dict
    window: int
    begin: int
    end: int
    gap: int
    job: Job
    own: Job
    slots: dict[str, Slot]
    store: Store | None
    dtype: torch.dtype
    share: Share | None
    empty: bool
    backward: bool
    probed: bool
    idle: bool

    @property
    def holds(self) -> bool:
        """Whether it is still true: the parameter is in the same window, and has the same dtype."""
        return self.begin <= self.group["step"] < self.end and self.p.dtype is self.dtype


def resolve(
    name: str, p: Tensor, group: dict, window: tuple[int, int, int], job: Job, share: Share | None = None
) -> Resolved:
    """Work out what the updates of one parameter share in one window.

    Args:
        name: of the parameter.
        p: the parameter.
        group: its param group.
        window: that it is in: its number, its first step, and the step after its last.
        job: its update in the window that it is in.
        share: what this rank does for it, where it is sharded.
    """
    own, source, split = work_division.own(job, share) if share else job, job.treatment.source, job.treatment.split
    return Resolved(
        name=name,
        p=p,
        group=group,
        window=window[0],
        begin=window[1],
        end=window[2],
        gap=split.update_gap,
        job=job,
        own=own,
        slots=work_division.kept(job, share) if share else declare(job),
        store=job.treatment.store_for(codes_dtype(p) or p.dtype),
        dtype=p.dtype,
        share=share,
        empty=not p.numel(),
        backward=source.backward,
        probed=source.scheme is not None,
        idle=job.idle,
    )
