"""Carry out updates: the backends in the order in which they are asked, and the choice of one for every task."""

from collections.abc import Iterable
from functools import cache

from ..core.contracts import Backend
from ..core.errors import HybridOptError
from ..core.registry import find, names
from .task import Task

__all__ = ["WORTH_COMPILING", "able", "backends", "choose", "run"]

WORTH_COMPILING = 50_000_000  # elements of an optimizer on a CPU: below, compiling takes longer than it saves


def run(tasks: Iterable[Task], compile: bool) -> None:
    """Carry out all tasks, each by the first backend that fits it; with `compile` also by those that compile."""
    chosen: dict[Backend[Task], list[Task]] = {}
    for task in tasks:
        backend, seen = choose(task, compile, task.param.device.type)
        chosen.setdefault(backend, []).append(seen)
    for backend in sorted(chosen, key=_rank):
        backend.run(chosen[backend])


def choose(task: Task, compile: bool, device: str) -> tuple[Backend[Task], Task]:
    """Return the first backend that fits a task, and the task as it is given to it.

    Args:
        task: its tensors may be without memory.
        compile: may it be one that compiles?
        device: the type of device that the task is for: "cpu", "cuda".

    Raises:
        HybridOptError: none fits.
    """
    blocks: Task | None = None
    for backend in able(compile, device):
        if backend.in_blocks and blocks is None:
            blocks = task.in_blocks()
        seen = blocks if backend.in_blocks and blocks else task
        if backend.fits(seen):
            return backend, seen
    asked = ", ".join(backend.name for backend in able(compile, device))
    raise HybridOptError(
        f"no backend fits an update of shape {tuple(task.param.shape)} and dtype {task.param.dtype} on {device!r}; "
        f"asked were {asked}"
    )


@cache
def able(compile: bool, device: str) -> tuple[Backend[Task], ...]:
    """Return the backends that work on a type of device, those that compile only with `compile`, in their order."""
    here = (b for b in backends() if b.devices is None or device in b.devices)
    return tuple(b for b in here if compile or not b.compiles)


@cache
def backends() -> tuple[Backend[Task], ...]:
    """Make every backend of `execution/backends`, the one with the lowest rank first."""
    return tuple(sorted((find("backends", name)() for name in names("backends")), key=_rank))


def _rank(backend):
    return backend.rank
