"""Carry out updates: the backends in the order in which they are asked, and the choice of one for every task."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import cache, lru_cache, partial

from torch import Tensor

from ..core.contracts import Backend, RepeatedCheck
from ..core.errors import HybridOptError
from ..core.registry import find, names
from .conditional_updates import guarded, written
from .gradient_check import GradientCheck, UncheckedGradient
from .update_task import Task

__all__ = [
    "LASTING",
    "WORTH_COMPILING",
    "WORTH_PRINTING",
    "Ran",
    "able",
    "backends",
    "carry_out",
    "choose",
    "check_gradients",
    "prepare",
    "repeat_check",
    "run",
    "worth",
]

Ran = dict[Backend[Task], list[Task]]
WORTH_COMPILING = 50_000_000  # elements of an optimizer on a CPU: below, compiling takes longer than it saves
WORTH_PRINTING = 1 << 20  # the same of printed kernels: two seconds once a machine, a fraction of one in a process
LASTING = 100  # steps of an optimizer that is worth printed kernels, whatever its size


def run(tasks: Iterable[Task], compile: bool | int) -> Ran:
    """Carry out all tasks, each by the first backend that fits it; with `compile` also by those that compile.

    A number is that of the optimizer's elements: then those compile that are worth it for so many.

    Nobody waits for the flag of a task, its `sound`. Returns which backend has carried out which tasks, as `choose`
    gives them to it.
    """
    tasks = list(tasks)
    chosen: Ran = {}
    for task in tasks:
        backend, seen = choose(task, compile, task.param.device.type, alone=len(tasks) == 1)
        chosen.setdefault(backend, []).append(seen)
    for backend in sorted(chosen, key=_rank):
        carry_out(backend, chosen[backend])
    return chosen


def carry_out(backend: Backend[Task], tasks: Sequence[Task]) -> None:
    """Let a backend carry out tasks; where it does not heed flags, what it writes is put back if one is False."""
    with ExitStack() as stack:
        for task in () if backend.heeds_sound else [task for task in tasks if task.sound is not None]:
            stack.enter_context(guarded(task.sound, partial(written, task.param, task.raw)))
        backend.run(tasks)


def worth(elements: int, step: int) -> int:
    """Return for how many elements an optimizer counts: where it lasts, for enough to have printed kernels.

    So nobody waits for a compiler for a small model of a few steps. It depends on the step alone, not on whether
    kernels are there already, or how long a compiler takes: a run that is resumed has the bits of one that was not.

    Args:
        elements: of the optimizer.
        step: from 0.
    """
    return max(elements, WORTH_PRINTING) if step >= LASTING else elements


def prepare(tasks: Iterable[Task], compile: bool | int) -> None:
    """Let backends begin to make what they need to carry out tasks like these with `compile`, as `run` takes it."""
    chosen: dict[str, Ran] = {}  # by device
    for task in tasks:
        device = task.param.device.type
        backend, seen = choose(task, compile, device)
        chosen.setdefault(device, {}).setdefault(backend, []).append(seen)
    for device, some in chosen.items():
        for backend in able(compile, device):
            backend.prepare(some.get(backend, []))


def choose(task: Task, compile: bool | int, device: str, alone: bool = False) -> tuple[Backend[Task], Task]:
    """Return the first backend that fits a task, and the task as it is given to it.

    Args:
        task: its tensors may be without memory.
        compile: may it be one that compiles? A number: if that is worth it for so many elements.
        device: the type of device that the task is for: "cpu", "cuda".
        alone: is it the only one, so that there is nothing to stack it with?

    Raises:
        HybridOptError: none fits.
    """
    blocks: Task | None = None
    for backend in able(compile, device):
        if (alone and backend.largest_stacked) or (task.before and task.rounded and not backend.heeds_row):
            continue
        if backend.in_blocks and blocks is None:
            blocks = task if task.job.in_blocks is task.job else task.in_blocks()  # mostly there are none
        seen = blocks if backend.in_blocks and blocks else task
        if backend.fits(seen):
            return backend, seen
    asked = ", ".join(backend.name for backend in able(compile, device))
    raise HybridOptError(
        f"no backend fits an update of shape {tuple(task.param.shape)} and dtype {task.param.dtype} on {device!r}; "
        f"asked were {asked}"
    )


@lru_cache(maxsize=1024, typed=True)  # typed: 1 element is not True
def able(compile: bool | int, device: str) -> tuple[Backend[Task], ...]:
    """Return the backends that work on a type of device, those that compile only with `compile`, in their order."""
    here = (b for b in backends() if b.devices is None or device in b.devices)
    return tuple(b for b in here if not b.compiles or (compile is True or (compile and compile >= b.worth_from)))


@cache
def backends() -> tuple[Backend[Task], ...]:
    """Make every backend of `execution/backends`, the one with the lowest rank first."""
    return tuple(sorted((find("backends", name)() for name in names("backends")), key=_rank))


def _rank(backend):
    return backend.rank


def check_gradients(gradients: Iterable[UncheckedGradient], compile: bool | int) -> dict[str, GradientCheck]:
    """Check gradients before anything is changed: are they finite, and what do rules with rounds find in round 0?

    Backends do it that read all of them at once; of gradients that none takes nothing is returned.

    Args:
        gradients: of one step.
        compile: as `run` takes it.
    """
    found: dict[str, GradientCheck] = {}
    by_device: dict[str, list[UncheckedGradient]] = {}
    for one in gradients:
        by_device.setdefault(one.grad.device.type, []).append(one)
    for device, some in by_device.items():
        for backend in able(compile, device):
            found |= backend.check_gradients([one for one in some if one.name not in found])
    return found


def repeat_check(gradients: Sequence[Tensor], compile: bool | int) -> RepeatedCheck | None:
    """Return a check of gradients of this form for many steps, by the first backend that has one; None: by none.

    Args:
        gradients: of one step, on one device, readable by their addresses.
        compile: as `run` takes it.
    """
    checks = (backend.repeat_check(gradients) for backend in able(compile, gradients[0].device.type))
    return next((check for check in checks if check is not None), None)
