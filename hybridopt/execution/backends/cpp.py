"""Updates on a CPU by C++ kernels that the project prints and compiles."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ...core.contracts import Backend, RepeatedCheck, RepeatedUpdate, stream
from ...parts.splits._lines import Lines
from ...policy.job import Job
from ..cpp import builder
from ..cpp.call import KernelCall
from ..cpp.chosen import chosen
from ..cpp.gradient_check import TEXT, check_gradients, finite
from ..cpp.kept_numbers import KeptNumbers
from ..cpp.layouts import LONG, Layout, joined, layout_of, text_of
from ..cpp.stacks import cut, matrices, places
from ..dispatch import WORTH_PRINTING
from ..gradient_check import GradientCheck, UncheckedGradient
from ..printing.cpp.rounds import RoundsLayout
from ..printing.cpp.structs import ROOTS
from ..printing.tracing.updates import traced
from ..slices import update_in_slices
from ..state import seeds
from ..update_task import Task
from .native import Native

__all__ = ["Cpp"]

NOTHING = torch.empty(0, device="cpu")  # its address is 0
TORCHS = Native()


class Cpp(Backend[Task]):
    """Update many parameters by one call of a kernel that reads and writes every number once.

    Kernels are printed from the rules' own `update` and compiled once a machine. Operations are rounded one by one, as
    eager ones are, and random rounding hashes the same counters. Without a compiler it fits nothing.
    """

    name = "cpp"
    rank = 5  # before torch's own AdamW, which cuts every tensor by itself for threads, and small ones not at all
    devices = frozenset({"cpu"})
    compiles = True
    worth_from = WORTH_PRINTING
    in_blocks = True
    heeds_row = True

    def fits(self, task: Task) -> bool:
        """Return whether there is a kernel for it, and a compiler to make it."""
        if not task.plain or isinstance(task.lr, Tensor) or isinstance(task.decay, Tensor):
            return False
        if not isinstance(task.grad, Tensor) or (task.before and task.job.rounds):  # of probes; what meets others
            return False
        layout = _layout(task)
        if layout is None or not _compiler(task) or (builder.refused and text_of(layout) in builder.refused):
            return False
        return task.in_memory

    def run(self, tasks: Iterable[Task]) -> None:
        """Carry out tasks, those of one kernel and the same numbers by one call."""
        alike: dict[tuple, list[Task]] = {}
        for task in tasks:
            alike.setdefault((_layout(task), id(task.job.treatment), *task.alike), []).append(task)
        builder.build(text_of(key[0]) for key in alike)
        for (layout, *_), same in alike.items():
            if builder.function(text_of(layout)) is None:
                for task in same:
                    update_in_slices(task)
            else:
                keys = _keys(layout, [task.job for task in same], (task.key for task in same))
                _call(layout, same).run(None, keys, _numbers(same[0]))
            increment_version([task.param for task in same])

    def prepare(self, tasks: Sequence[Task]) -> None:
        """Begin to compile the kernels of these tasks, and the one that looks at gradients for all backends."""
        builder.begin([TEXT, *(text_of(layout) for layout in map(_layout, tasks) if layout)])

    def check_gradients(self, gradients: Sequence[UncheckedGradient]) -> dict[str, GradientCheck]:
        """Look at gradients by a few calls: those of rules with rounds are read as their first round reads them."""
        return check_gradients(gradients)

    def repeat_check(self, gradients: Sequence[Tensor]) -> RepeatedCheck | None:
        """Return one call that reads all gradients."""
        return finite(gradients)

    def kind(self, task: Task) -> Hashable | None:
        """Return the layout and the treatment, whose numbers a kernel is told, if there is a kernel."""
        layout, seen = _layout(task), task.check
        if layout is None or builder.function(text_of(layout)) is None:
            return None
        if seen is not None and seen.numbers is not None:
            return None  # what first looks find lies at another place in every step
        return layout, id(task.job.treatment)

    def repeat(self, tasks: Sequence[Task]) -> RepeatedUpdate[Task]:
        """Return the call of a kernel, which keeps all but gradients, keys and numbers."""
        return _Again(tasks)

    def tolerance(self, task: Task) -> float:
        """Return 0 where every operation has one result; square roots of the CPU are not always rounded to nearest."""
        layout = _layout(task)
        if task.job.rounds:
            return 64 * torch.finfo(torch.float32).eps
        roots = layout is not None and not ROOTS.isdisjoint(dict(layout.slots).values())
        lines = [text for _, rule in task.job.rules if not rule.idle for _, text in traced(rule).lines]
        return 64 * torch.finfo(torch.float32).eps if roots or any("sqrt_" in text for text in lines) else 0.0

    def temporaries(self, tasks: Sequence[Task], measured: Callable[[], int]) -> int:
        """Return what a kernel is told of chosen columns, a bit each, or rows, and what it keeps between rounds."""
        found = sum(8 * max(*task.job.shape, LONG.stop // 64) for task in tasks if type(task.job.part) is Lines)
        layouts = [(_layout(task), task.job) for task in tasks if task.job.rounds]
        return found + sum(
            4 * matrices(job, layout) * (layout.room(*job.shape[-2:]) + layout.looked(*job.shape[-2:]))
            for layout, job in layouts
            if isinstance(layout, RoundsLayout)
        )


def _compiler(task: Task) -> bool:
    """Return whether there is a compiler; who misses one is told, but not where torch has a kernel of its own."""
    return builder.usable() if TORCHS.fits(task) else builder.available()


def _layout(task: Task) -> Layout | None:
    store: Any = task.store
    return layout_of(task.job, store, task.param.dtype, task.grad.dtype)


def _call(layout: Layout, tasks: Sequence[Task]) -> KernelCall:
    """Return the call of the kernel of a layout on tasks of that layout."""
    kernel = builder.function(text_of(layout))
    assert kernel is not None  # `run` and `kind` have looked
    counts = [matrices(task.job, layout) for task in tasks]
    tensors = [[task.param, task.grad, *(task.raw[name] for name in layout.state)] for task in tasks]
    if layout.part != "flat":
        for task, own in zip(tasks, tensors, strict=True):
            own.append(chosen(task.raw[task.job.basis["index"]], task.job, joined(task.job, layout)))
    if layout.looks_first:
        for task, own in zip(tasks, tensors, strict=True):
            seen = task.check
            own.append(NOTHING if seen is None or seen.numbers is None or seen.layout != layout else seen.numbers)
    each = [one for own, n in zip(tensors, counts, strict=True) for one in zip(*(cut(x, n) for x in own), strict=True)]
    sizes = [size for task in tasks for size in places(task.job, layout, task.row)]
    widest = max(width for _, width, *_ in sizes) if layout.rounded else 0
    return KernelCall(kernel, each, sizes, len(layout.rounded), widest)


def _numbers(one: Task) -> list[Any]:
    """Return what a kernel is told of a step: rates, and the numbers of both rules."""
    now, rates = one.now(), one.job.treatment
    told = [x for axis, rule in one.job.rules if not rule.idle for x in getattr(now, axis).values()]
    return [now.lr, now.lr * rates.free_lr_scale, now.decay, *told]


def _keys(layout: Layout, jobs: Sequence[Job], keys: Iterable[int]) -> list[int]:
    """Return the keys of all that is rounded at random, parameter by parameter, the same for all matrices of a stack.

    Args:
        layout: of the kernel.
        jobs: of the parameters.
        keys: of the parameters in this step.
    """
    if not layout.rounded:
        return []
    made: list[Any] = []
    for job, key in zip(jobs, keys, strict=True):
        own = seeds(job, key)
        made += [own[name].key for name in layout.rounded] * matrices(job, layout)
    return made


class _Again(RepeatedUpdate[Task]):
    """One call of a kernel in every step."""

    def __init__(self, tasks: Sequence[Task]):
        one, layout = tasks[0], _layout(tasks[0])
        assert layout is not None  # they fit
        self._layout, self._call = layout, _call(layout, tasks)
        self._jobs, self._streams = [task.job for task in tasks], [task.stream for task in tasks]
        self._counts = [matrices(job, layout) for job in self._jobs]
        self._index = one.job.basis.get("index", "") if layout.part != "flat" else ""
        self._chosen = KeptNumbers([task.raw[self._index] for task in tasks]) if self._index else None
        self._masks = [chosen(t.raw[self._index], t.job, joined(t.job, layout)) for t in tasks if self._index]

    def holds(self, one: Task, raw: Mapping[str, Sequence[Tensor]]) -> bool:
        if isinstance(one.lr, Tensor) or isinstance(one.decay, Tensor):
            return False
        return self._chosen is None or self._chosen.equal(raw[self._index])

    def run(
        self, one: Task, params: Sequence[Tensor], grads: Sequence[Tensor], raw: Mapping[str, Sequence[Tensor]]
    ) -> None:
        keys = (stream(*own, one.step) for own in self._streams)
        if max(self._counts) > 1:
            grads = [x for grad, n in zip(grads, self._counts, strict=True) for x in cut(grad, n)]
        self._call.run(grads, _keys(self._layout, self._jobs, keys), _numbers(one))
