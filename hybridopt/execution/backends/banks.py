"""Many small parameters that are treated alike, updated as one stack."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ...core.numerics.rounding import Seed
from ..task import Task
from ..update import Now, update

__all__ = ["LARGEST", "fits", "run"]

LARGEST = 1 << 14  # elements of a parameter: below, calling costs more than computing
MOST = 1 << 20  # elements of a bank


def fits(task: Task) -> bool:
    """Is it small, and are its parts the same for all: no subspace of its own, no state in blocks?"""
    plain = set(task.raw) == set(task.job.slots) and type(task.param) in (Tensor, torch.nn.Parameter)
    return plain and task.param.numel() <= LARGEST and not task.job.basis


def run(tasks: Iterable[Task]) -> None:
    """Update them in stacks of equal jobs and numbers."""
    alike: dict[tuple, list[Task]] = {}
    for task in tasks:
        alike.setdefault((task.job, *task.alike), []).append(task)
    for same in alike.values():
        most = max(1, MOST // same[0].param.numel())
        for start in range(0, len(same), most):
            _bank(same[start : start + most])


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
    nows = [task.now() for task in tasks]
    seeds = nows[0].seeds
    if tasks[0].random:
        seeds = {name: Seed(torch.tensor([now.seeds[name].key for now in nows], device=device)) for name in seeds}
    return replace(nows[0], key=torch.tensor([now.key for now in nows], device=device), seeds=seeds)
