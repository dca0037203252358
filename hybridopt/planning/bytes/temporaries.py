"""What an update takes for a moment, beyond weight, gradient and state: its own code run on empty tensors."""

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from ...core.contracts import Draw, State
from ...execution.backends import banks, compiled, native
from ...execution.backends.compiled import PIECE
from ...execution.probe_gradient import ProbeGradient
from ...execution.probed import multiples
from ...execution.slices import elements, update_in_slices
from ...execution.state import allocate, seeds
from ...execution.task import Task
from ...optimizer.parameters import WORTH_COMPILING
from ...parts.stores.dense import Dense
from ...policy.job import Job, declare
from ...policy.plan import Entry, Plan
from ..trace.tracker import Tracker
from ..trace.without_memory import fake_tensors, meta_tensors
from .drawing import CPU, Drawing

__all__ = ["Temporaries"]

Key = tuple[Job, torch.dtype, torch.dtype | None]


class Temporaries:
    """Bytes that updates take, by parameter and all together; equal jobs are looked at once.

    cuda: updates are compiled there, where they can be, and slices are larger.
    """

    def __init__(self, plan: Plan, cuda: bool):
        self._plan, self._cuda = plan, cuda
        self._entries = {e.param.name: e for e in plan.entries if e.treatment is not None}
        self._compiles = cuda or sum(e.numel for e in self._entries.values()) >= WORTH_COMPILING
        self.drawing = Drawing(plan, self._compiles, "cuda" if cuda else "cpu")
        self._keys: dict[str, Key] = {}
        self._known: dict[Key, int] = {}
        self._sizes: dict[Key, int] = {}
        self.alone = cache(self._alone)
        self.together = cache(self._together)

    def _alone(self, name: str) -> int:
        """When one parameter is updated by itself, as with release="fused"; also when its split is drawn anew."""
        entry = self._entries[name]
        key = self._key(entry)
        if key not in self._known:
            probed = entry.treatment.probed
            self._known[key] = self._estimated(entry, key[0]) if probed else self._first_order(entry, key[0])
        return self._known[key]

    def _key(self, entry: Entry) -> Key:
        """What an update depends on."""
        name = entry.param.name
        if name not in self._keys:
            self._keys[name] = self._plan.first(entry), entry.param.dtype, entry.param.codes
        return self._keys[name]

    def _first_order(self, entry, job):
        return max(self._update([entry]), self._drawing(entry, job))

    def _estimated(self, entry, job):
        """A gradient from probes: in full where a rule keeps state and is compiled, else in slices or not at all."""
        drawn = self.drawing.alone[entry.param.name]
        with self._tensors():
            task = self._task(entry)
            size = min(entry.numel, elements(task.param))
        if multiples(self._probe(entry, task)) is not None:
            return drawn if type(task.store) is Dense else max(drawn, self._rounded(entry))
        with self._tensors():
            own = self._task(entry)
            used = _peak([own], lambda: _sliced(own))
        whole = entry.numel if declare(job) and self._compiles else size
        return whole * job.arithmetic.itemsize + max(drawn, used)

    def _rounded(self, entry):
        """A slice in full precision, and what storing it takes."""
        with self._tensors():
            task = self._task(entry)
            flat = task.param.view(-1, task.param.shape[-1])
            part = flat[: max(1, elements(task.param) // flat.shape[-1])]
            seed = seeds(task.job, task.key)[""]
            return _peak([task], lambda: task.store.put_(part, part.to(torch.float32, copy=True), seed))

    def _tensors(self):
        """Those of a device that slices as the planned one does."""
        return meta_tensors() if self._cuda else fake_tensors()

    def _probe(self, entry, task):
        terms = tuple((1.0, self.drawing.noise(entry, i)) for i in range(entry.treatment.source.scheme.samples))
        backprop = torch.empty(0) if entry.treatment.source.backward else None
        return replace(task, grad=ProbeGradient(terms, task.job.shape, CPU, task.job.arithmetic, backprop))

    def _together(self, idle: frozenset[str] = frozenset()) -> int:
        """When all that do not stand still are updated in `step`: small ones in banks, the others one by one."""
        moved = {n: e for n, e in self._entries.items() if n not in idle}
        small = {n: e for n, e in moved.items() if e.numel <= banks.LARGEST and not e.treatment.probed}
        return max([self._update(small.values()), *(self.alone(n) for n in moved if n not in small)])

    def _update(self, entries: Iterable[Entry]) -> int:
        small, large = [], []
        for entry in entries:
            with meta_tensors():
                task = self._task(entry)
                if not _by_torch(task):
                    (small if banks.fits(task) else large).append(entry)
        with self._tensors():
            together = list(map(self._task, small))
            sizes = [_peak(together, lambda: banks.run(together))]
            return max([*sizes, *(self._large(entry) for entry in large)])

    def _large(self, entry: Entry) -> int:
        key = self._key(entry)
        if key not in self._sizes:
            self._sizes[key] = self._by_itself(entry)
        return self._sizes[key]

    def _by_itself(self, entry: Entry) -> int:
        task = self._task(entry).in_blocks()
        if self._compiles and compiled.fits(task):
            return _between_kernels(task)
        return _peak([task], lambda: _sliced(task))

    def _task(self, entry: Entry) -> Task:
        job, p = self._key(entry)[0], entry.param
        param, grad = _weight(p, job), torch.empty(job.shape, dtype=p.dtype)
        store = job.treatment.store_for(p.codes or p.dtype)
        return Task(param, grad, _raw(job, grad), job, store, 1e-3, 1.0, 1, (0, p.name), 0)

    def _drawing(self, entry: Entry, job: Job) -> int:
        """A new basis: the gradient in full precision and what its singular directions take, or random ones."""
        part = job.part.projection()
        if part is None or (self._cuda and not part.by_gradient):  # random ones are drawn on the host
            return 0
        with fake_tensors():
            grad = torch.empty(job.shape, dtype=entry.param.dtype)
            (slot,) = part.slots(job.shape).values()
            basis = {"basis": torch.empty(slot.shape, dtype=job.arithmetic)}
            return _peak([], lambda: part.sample(grad, basis, Draw(0, entry.param.name)), [grad, *basis.values()])


def _by_torch(task: Task) -> bool:
    """As `native.fits`, which knows tensors with values only."""
    same = task.param.dtype == task.grad.dtype == task.job.arithmetic
    return same and isinstance(task.store, Dense) and native._rule_fits(task.job) and task.job.treatment.lr_scale > 0


def _sliced(task: Task) -> None:
    update_in_slices(task.param, task.grad, task.raw, task.job, task.store, task.now(), task.key)


def _raw(job: Job, like: Tensor) -> State:
    return {name: allocate(slot, like.device) for name, slot in declare(job).items()}


def _weight(p, job: Job) -> Tensor:
    if p.codes is None:
        return torch.empty(job.shape, dtype=p.dtype)
    from ...parts.stores._int8_weight import Int8Weight

    return Int8Weight.quantize(torch.empty(job.shape, dtype=p.dtype))


def _peak(tasks: list[Task], work, besides: Iterable[Tensor] = ()) -> int:
    known = [x for task in tasks for x in (task.param, task.grad, *task.raw.values())]
    with torch.no_grad(), Tracker([*known, *besides]) as tracker:
        work()
    return tracker.peak


def _between_kernels(task: Task) -> int:
    """What compiled kernels hand on: rows and columns that rules look at, and the state-full part of a slice."""
    job, looked = task.job, 0
    low = job.part.shape(job.shape)
    if low is not None and job.treatment.full.looks and len(job.shape) > 1:
        looked = 8 * math.prod(job.shape[:-2]) * sum(job.shape[-2:])
    if low is None or not job.part.disjoint or job.part.covers:
        return looked
    share = math.prod(low) / math.prod(job.shape)
    sizes = task.param.element_size() + task.grad.element_size() + job.arithmetic.itemsize
    return looked + int(share * min(PIECE, task.param.numel()) * sizes)
