"""What updates take for a moment, beyond weight, gradient and state: asked of the backends that would make them."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache, partial
from typing import cast

import torch
from torch import Tensor

from ...core.contracts import Backend, Draw, ProbeScheme
from ...core.numerics.rounding import made_tables
from ...execution import probe_updates
from ...execution.conditional_updates import guarded
from ...execution.dispatch import WORTH_COMPILING, backends, carry_out, choose
from ...execution.meta_tasks import unfilled
from ...execution.probe_gradient import ProbeGradient
from ...execution.state import allocate
from ...execution.update_task import Task
from ...policy.job import BASIS, Job, declare
from ...policy.plan import Entry, Plan
from ..trace.tracker import Tracker
from ..trace.without_memory import fake_tensors, meta_tensors
from .drawing import CPU, Drawing
from .lasting import lasting_bytes, noting_bytes

__all__ = ["Temporaries"]

Key = tuple[Job, torch.dtype, torch.dtype | None]


class Temporaries:
    """Bytes that updates take, by parameter and all together; equal updates are looked at once.

    Args:
        plan: which parameter is trained how.
        cuda: are they updated on a GPU? There slices are larger, updates are compiled where they can be, and those
            within the backward pass keep what they write until a flag is known. On a CPU the slices of eager updates
            are counted, even where updates are compiled.
    """

    def __init__(self, plan: Plan, cuda: bool):
        self._plan, self._cuda, self._device = plan, cuda, "cuda" if cuda else "cpu"
        self._trained = plan.trained
        self._entries = {e.param.name: e for e in plan.entries if e.param.name in self._trained}
        self._compiles = cuda or sum(e.numel for e in self._entries.values()) >= WORTH_COMPILING
        self.drawing = Drawing(plan, self._compiles, self._device)
        self._keys: dict[str, Key] = {}
        self._known: dict[tuple[Key, bool], int] = {}
        self._sizes: dict[tuple[Key, bool], int] = {}
        self._rounding = 0  # bytes of tables that updates have made
        self.alone = cache(partial(self._alone, flagged=cuda))
        self.together = cache(self._together)

    @property
    def lasting(self) -> int:
        """Return the bytes that stay on the device from the first step on, by the updates that were looked at."""
        return lasting_bytes(self._plan, self.drawing, self._rounding)

    @property
    def noting(self) -> int:
        """Return the bytes that are taken for a moment before the first step, to note the weights."""
        return noting_bytes(self._plan, self._device)

    def _alone(self, name: str, flagged: bool) -> int:
        """Return the bytes of updating one parameter by itself, in a window's first step.

        flagged: may a flag of the device undo it, as with release="fused"?
        """
        entry, key = self._entries[name], (self._key(self._entries[name]), flagged)
        if key not in self._known:
            probed = self._trained[name].probed
            self._known[key] = self._probed(entry, flagged) if probed else self._first_order(entry, flagged)
        return self._known[key]

    def _together(self, idle: frozenset[str] = frozenset()) -> int:
        """Return the bytes of updating all parameters but the idle ones in `step`."""
        moved = {n: e for n, e in self._entries.items() if n not in idle}
        largest = max(backend.largest_stacked for backend in backends())
        small = {n: e for n, e in moved.items() if e.numel <= largest and not self._trained[n].probed}
        return max([self._update(small.values(), False), *(self._alone(n, False) for n in moved if n not in small)])

    def _key(self, entry: Entry) -> Key:
        """Return what the bytes of an update depend on."""
        name = entry.param.name
        if name not in self._keys:
            self._keys[name] = self._plan.first(entry), entry.param.dtype, entry.param.codes
        return self._keys[name]

    def _first_order(self, entry: Entry, flagged: bool) -> int:
        return max(self._update([entry], flagged), self._new_basis(entry, flagged))

    def _update(self, entries: Iterable[Entry], flagged: bool) -> int:
        """Return the most that the backends take for these parameters: stacks together, the others one by one."""
        chosen: dict[Backend[Task], list[Entry]] = {}
        for entry in entries:
            with meta_tensors():
                backend, _ = choose(self._task(entry), self._cuda, self._device)
            chosen.setdefault(backend, []).append(entry)
        with self._tensors():
            return max(
                [0, *(self._by(backend, chosen[backend], flagged) for backend in backends() if backend in chosen)]
            )

    def _by(self, backend: Backend[Task], entries: Sequence[Entry], flagged: bool) -> int:
        if backend.largest_stacked:
            return self._asked(backend, entries, flagged)
        sizes = []
        for entry in entries:
            key = self._key(entry), flagged
            if key not in self._sizes:
                self._sizes[key] = self._asked(backend, [entry], flagged)
            sizes.append(self._sizes[key])
        return backend.together([self._task(entry) for entry in entries], max(sizes))

    def _asked(self, backend: Backend[Task], entries: Sequence[Entry], flagged: bool) -> int:
        """Ask a backend what it takes to update these parameters in one go."""
        tasks = [self._task(entry, flagged) for entry in entries]
        tasks = [task.in_blocks() if backend.in_blocks else task for task in tasks]
        return backend.temporaries(tasks, partial(self._peak, tasks, lambda: carry_out(backend, tasks)))

    def _probed(self, entry: Entry, flagged: bool) -> int:
        """Return the bytes of an update by a gradient from probes."""
        source = self._trained[entry.param.name].source
        samples = range(cast(ProbeScheme, source.scheme).samples)
        terms = tuple((1.0, self.drawing.noise(entry, i)) for i in samples)
        backprop = torch.empty(0) if source.backward else None
        with self._tensors():
            task = self._task(entry, flagged and source.backward)
            task = replace(task, grad=torch.empty_like(task.grad, dtype=task.job.arithmetic))
            grad = ProbeGradient(terms, task.job.shape, CPU, task.job.arithmetic, backprop)
            drawing = self.drawing.alone[entry.param.name]
            return probe_updates.temporaries(task, grad, self._compiles, drawing, partial(self._peak, [task]))

    def _task(self, entry: Entry, flagged: bool = False) -> Task:
        task = unfilled(entry.param.name, *self._key(entry))
        return replace(task, sound=_flag()) if flagged else task

    def _tensors(self) -> AbstractContextManager[object]:
        """Return a context of tensors without memory, on a device that slices as the planned one does."""
        return meta_tensors() if self._cuda else fake_tensors()

    def _new_basis(self, entry: Entry, flagged: bool) -> int:
        """Return the bytes of finding a new subspace, by running the code that finds it."""
        job = self._key(entry)[0]
        part = job.part
        if part.projection() is None:
            return 0
        with fake_tensors():
            grad = torch.empty(job.shape, dtype=entry.param.dtype)
            slots = declare(job)
            basis = {name: allocate(slots[BASIS + name], CPU) for name in part.slots(job.shape)}
            flag = _flag() if flagged else None

            def find() -> None:
                with guarded(flag, basis.values):
                    part.sample(grad, basis, Draw(0, entry.param.name))

            return self._peak([], find, [grad, *basis.values()])

    def _peak(self, tasks: Sequence[Task], work: Callable[[], object], besides: Iterable[Tensor] = ()) -> int:
        """Return the most bytes alive while `work` runs, beside tensors of the tasks, `besides`, and what stays."""
        known = [x for task in tasks for x in (task.param, task.grad, *task.raw.values())]
        before = made_tables()
        with torch.no_grad(), Tracker([*known, *besides, *before]) as tracker:
            work()
        tables = sum(x.nbytes for x in made_tables())
        self._rounding = max(self._rounding, tables)
        return tracker.peak - (tables - sum(x.nbytes for x in before))


def _flag() -> Tensor:
    return torch.empty((), dtype=torch.bool)
