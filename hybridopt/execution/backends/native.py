"""Rules for which torch has a kernel of its own, where nothing else has to be done to the parameter."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ...core.contracts import Backend, RepeatedUpdate
from ...core.numerics.host import put
from ...parts.codecs.fp32 import Fp32
from ...parts.rules.adamw import AdamW
from ...parts.splits.whole import Whole
from ...parts.stores.dense import Dense
from ..update_task import Task

__all__ = ["Native", "plain"]

Lists = Mapping[str, Sequence[Tensor]]  # the state of several parameters, by name
Kernel = Callable[[Task, Sequence[Tensor], Sequence[Tensor], Lists], None]


class Native(Backend[Task]):
    """Call torch's fused kernel once for all parameters of the same numbers."""

    name = "native"
    rank = 10
    devices = frozenset({"cpu", "cuda"})
    heeds_sound = True

    def fits(self, task: Task) -> bool:
        """Return whether a kernel of `KERNELS` does all of this task: whole, exact state, weights not rounded."""
        t = task.job.treatment
        known = type(t.full) in KERNELS and type(task.job.part) is Whole and type(t.codec) is Fp32
        return known and t.lr_scale > 0 and not isinstance(task.lr, Tensor) and task.lr > 0 and plain(task)

    def run(self, tasks: Iterable[Task]) -> None:
        """Carry out tasks, together those of one treatment and the same numbers."""
        alike: dict[tuple, list[Task]] = {}
        for task in tasks:
            alike.setdefault((id(task.job.treatment), id(task.sound), *task.alike), []).append(task)
        for same in alike.values():
            params, grads = [task.param for task in same], [task.grad for task in same]
            raw = {name: [task.raw[name] for task in same] for name in same[0].raw}
            _kernel(same[0])(same[0], params, grads, raw)
            increment_version(params)

    def kind(self, task: Task) -> Hashable | None:
        """Return the treatment, which has the kernel's numbers."""
        return id(task.job.treatment)

    def repeat(self, tasks: Sequence[Task]) -> RepeatedUpdate[Task]:
        """Return the call of the kernel."""
        return _Again()

    def tolerance(self, task: Task) -> float:
        """Allow for the order in which torch's kernel multiplies and divides."""
        return 8 * torch.finfo(task.param.dtype).eps

    def temporaries(self, tasks: Sequence[Task], measured: Callable[[], int]) -> int:
        """Return 0: the kernels work in registers."""
        return 0


def plain(task: Task) -> bool:
    """Return whether weight and gradient are plain, contiguous, of the dtype of the arithmetic, and never rounded."""
    p, grad = task.param, task.grad
    same = p.dtype == grad.dtype == task.job.arithmetic and grad.is_contiguous() and p.is_contiguous()
    if not (same and isinstance(task.store, Dense) and task.plain):
        return False
    return not (p.is_neg() or grad.is_neg() or p._is_zerotensor() or grad._is_zerotensor())


class _Again(RepeatedUpdate[Task]):
    """One call of torch's kernel in every step."""

    def holds(self, one: Task, raw: Lists) -> bool:
        return not isinstance(one.lr, Tensor) and one.lr > 0

    def run(self, one: Task, params: Sequence[Tensor], grads: Sequence[Tensor], raw: Lists) -> None:
        _kernel(one)(one, params, grads, raw)


def _kernel(one: Task) -> Kernel:
    return KERNELS[type(one.job.treatment.full)]


def _adamw(one: Task, params: Sequence[Tensor], grads: Sequence[Tensor], raw: Lists) -> None:
    """Make the whole step by `torch._fused_adamw_`: param = decay * param - lr * direction."""
    rule = cast(AdamW, one.job.treatment.full)
    steps = [put(float(one.age), torch.float32, one.param.device)] * len(params)
    lr = cast(float, one.lr) * one.job.treatment.lr_scale
    decay = (1 - cast(float, one.decay)) / lr if one.decay != 1 else 0.0
    torch._fused_adamw_(
        tuple(params),
        tuple(grads),
        tuple(raw["exp_avg"]),
        tuple(raw["exp_avg_sq"]),
        (),
        steps,
        lr=lr,
        beta1=rule.betas[0],
        beta2=rule.betas[1],
        weight_decay=decay,
        eps=rule.eps,
        amsgrad=False,
        maximize=False,
        found_inf=None if one.sound is None else (~one.sound).float(),
    )


KERNELS: dict[type, Kernel] = {AdamW: _adamw}  # by the rule, of exactly this type, whose `update` the kernel computes
