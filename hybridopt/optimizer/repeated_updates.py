"""Updates that are the same as in the step before: carried out without asking again who carries out which, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..core.contracts import Backend, Named, RepeatedUpdate
from ..execution.dispatch import Ran
from ..execution.tensor_guards import LyingForm, Unmoved
from ..execution.update_task import Task
from .groups.hyperparameters import rates
from .windows.resolved import Resolved
from .windows.windows import Windows

__all__ = ["RepeatedUpdates"]

NOTHING = torch.empty(0)
_second = itemgetter(1)


class RepeatedUpdates:
    """What steps have carried out, by the first parameter of each.

    Most of a small model's step is Python that finds out what it found out in the step before. Here it is looked at
    whether all that the findings depend on is as it was: the parameters and their window, where weights and state lie,
    their form and that of gradients, ages that are equal, and a rate that is a number. What is not is found out anew.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Repeat] = {}
        self._seen: dict[str, list[int]] = {}  # identities of the parameters of the last step

    def carry_out(self, work: Sequence[Named], states: Mapping, setting: tuple) -> Sequence[Named]:
        """Update what is updated as in the last step, and return the others.

        Args:
            work: the parameters of this step.
            states: of the optimizer, by parameter.
            setting: what else the findings depend on.
        """
        known = self._known.get(work[0][0]) if work else None
        if known is None or known.setting != setting or known.work != _identities(work):
            return work
        steps = [step for crew in known.crews if (step := crew.ready(states)) is not None]
        if len(steps) < len(known.crews):
            del self._known[work[0][0]], self._seen[work[0][0]]
            return work
        for step in steps:
            step.run()
        return known.others

    def learn(self, work: Sequence[Named], windows: Windows, ran: Ran, setting: tuple) -> None:
        """Note what a step has carried out, the second time that it is about the same parameters.

        Args:
            work: the parameters of the step.
            windows: the parameters as they are trained now.
            ran: which backend has carried out which tasks.
            setting: as in `carry_out`.
        """
        first, now = work[0][0], _identities(work)
        known, before, self._seen[first] = self._known.get(first), self._seen.get(first), now
        if known is not None and (known.work, known.setting) == (now, setting):
            return  # there is nothing to repeat
        self._known.pop(first, None)
        if before == now and len(set(now)) == len(now):  # one that has two names is updated twice, at two ages
            crews = _crews(dict(work), windows, ran)
            done = {one.name for crew in crews for one in crew.ones}
            others = [pair for pair in work if pair[0] not in done]
            self._known[first] = _Repeat(now, setting, crews, others)


@dataclass(frozen=True)
class _Repeat:
    """The updates of a step, and the parameters that are not among them."""

    work: list[int]
    setting: tuple
    crews: list["_Crew"]
    others: list[Named]


class _Crew:
    """Parameters of one group that one call updates."""

    def __init__(self, ones: list[Resolved], tasks: Sequence[Task], backend: Backend[Task]):
        self.ones, self._update = ones, backend.repeat(tasks)
        self._group, self._params = ones[0].group, [one.p for one in ones]
        self._begin, self._end = max(one.begin for one in ones), min(one.end for one in ones)
        self._windows, self._slots = tuple(one.window for one in ones), tuple(ones[0].slots)
        self._told = itemgetter("step", "window", *self._slots)
        self._moves = tasks[0].lr > 0  # a backend may be for weights that move only
        self._first = replace(tasks[0], param=NOTHING, grad=NOTHING, raw={})
        self._weights, self._grads = Unmoved.of(self._params), LyingForm.of([task.grad for task in tasks])
        self._state = {name: Unmoved.of([task.raw[name] for task in tasks]) for name in self._slots}

    def ready(self, states: Mapping) -> "_CrewStep | None":
        """Return the updates of this step; None where something is not as it was. Nothing is changed."""
        step, params = self._group["step"], self._params
        grads: list[Any] = [p.grad for p in params]
        if not self._begin <= step < self._end or not self._weights.fits(params) or not self._grads.fits(grads):
            return None
        kept: list[dict] = [states.get(p) or {} for p in params] if self._slots else []
        raw: dict[str, Any] = {}
        age = step + 1
        if self._slots:
            try:
                ages, windows, *tensors = zip(*map(self._told, kept), strict=True)
            except KeyError:
                return None
            if ages.count(ages[0]) != len(ages) or windows != self._windows:
                return None
            raw, age = dict(zip(self._slots, tensors, strict=True)), ages[0] + 1
            if not all(self._state[name].fits(xs) for name, xs in raw.items()):
                return None
        lr, decay = rates(self._group)
        if (lr > 0) != self._moves:
            return None
        one = replace(self._first, lr=lr, decay=decay, age=age, step=step)
        return _CrewStep(self._update, one, params, grads, raw, kept) if self._update.holds(one, raw) else None


@dataclass(frozen=True)
class _CrewStep:
    """One step of a crew, with all that it takes."""

    update: RepeatedUpdate[Task]
    one: Task
    params: list[Tensor]
    grads: list[Tensor]
    raw: dict[str, Sequence[Tensor]]
    kept: list[dict]

    def run(self) -> None:
        """Count the step, and update."""
        for state in self.kept:
            state["step"] = self.one.age
        self.update.run(self.one, self.params, self.grads, self.raw)
        increment_version(self.params)


def _crews(params: Mapping[str, Tensor], windows: Windows, ran: Ran) -> list[_Crew]:
    """Return crews of what can be repeated: plain tensors on a CPU.

    Args:
        params: by name.
        windows: the parameters as they are trained now.
        ran: which backend has carried out which tasks.
    """
    alike: dict[tuple, list[tuple[Resolved, Task]]] = {}
    for backend, tasks in ran.items():
        for task in tasks:
            name = task.stream[1]
            plain = task.plain and task.param.is_cpu and task.sound is None
            kind = backend.kind(task) if plain else None
            one = None if kind is None else windows.of(name, params[name])
            if one is not None and one.share is None:
                key = backend, kind, id(one.group), tuple(one.slots), task.param.dtype, task.grad.dtype, task.age
                alike.setdefault(key, []).append((one, task))
    return [_Crew([one for one, _ in same], [task for _, task in same], key[0]) for key, same in alike.items()]


def _identities(work: Sequence[Named]) -> list[int]:
    return list(map(id, map(_second, work)))
