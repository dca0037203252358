"""Many small parameters that are treated alike, updated as one stack."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch.autograd.graph import increment_version

from ...core.contracts import Backend
from ...core.numerics.host import put
from ...core.numerics.rounding import Seed, as_seed
from ..update import Now, update
from ..update_task import Task

__all__ = ["Banks"]

MOST = 1 << 20  # elements of a bank


class Banks(Backend[Task]):
    """Stack equal small parameters and update the stack: one call in place of many that compute next to nothing."""

    name = "banks"
    rank = 20
    largest_stacked = 1 << 14

    def fits(self, task: Task) -> bool:
        """Return whether it is small and its parts are the same for all: no basis of its own, no state in blocks."""
        plain = task.plain and set(task.raw) == {*task.job.slots, *task.job.beside.values()}
        return plain and task.param.numel() <= self.largest_stacked and not task.job.basis

    def run(self, tasks: Iterable[Task]) -> None:
        """Carry out tasks in stacks of equal jobs and numbers."""
        alike: dict[tuple, list[Task]] = {}
        for task in tasks:
            alike.setdefault((task.job, *task.alike), []).append(task)
        for same in alike.values():
            most = max(1, MOST // same[0].param.numel())
            for start in range(0, len(same), most):
                _bank(same[start : start + most])

    def tolerance(self, task: Task) -> float:
        """Return 0 where rules go element by element; else sums of a stack may be added in another order."""
        t = task.job.treatment
        return 0.0 if t.full.local and t.free.local else 64 * torch.finfo(task.job.arithmetic).eps

    def temporaries(self, tasks: Sequence[Task], measured: Callable[[], int]) -> int:
        """Return what the stacks and their updates take, as measured."""
        return measured()


def _bank(tasks):
    one = tasks[0]
    if len(tasks) == 1:
        return update(one.param, one.grad, one.raw, one.job, one.store, one.now())
    params, grads = ([getattr(t, name) for t in tasks] for name in ("param", "grad"))
    raws = {name: [t.raw[name] for t in tasks] for name in one.raw}
    param, grad = torch.stack(params), torch.stack(grads)
    raw = {name: torch.stack(xs) for name, xs in raws.items()}
    update(param, grad, raw, one.job, one.store, _now(tasks, param.device))
    torch._foreach_copy_(params, list(param.unbind()))
    increment_version(params)
    for name, xs in raws.items():
        torch._foreach_copy_(xs, list(raw[name].unbind()))


def _now(tasks, device) -> Now:
    """Return the numbers of a stack: those of any of its tasks, with the keys and seeds of all, [len(tasks)]."""
    nows = [task.now() for task in tasks]
    names = tasks[0].rounded
    numbers = [[now.key, *[as_seed(now.seeds[name]).key for name in names]] for now in nows]
    key, *keys = put(numbers, torch.int64, device).unbind(-1)
    return replace(nows[0], key=key, seeds={**nows[0].seeds, **dict(zip(names, map(Seed, keys), strict=True))})
