"""What a step carries out: the updates of parameters that have gradients, each with its state."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..core.contracts import Named, State
from ..execution.conditional_updates import guarded
from ..execution.dispatch import WORTH_COMPILING, Ran, prepare, run
from ..execution.probe_gradient import ProbeGradient
from ..execution.probe_updates import run_estimated
from ..execution.sharded.batched_collectives import Waiting
from ..execution.sharded.gathered import Gathered
from ..execution.sharded.rows import cut_as, elements_before
from ..execution.sharded.work_division import ROUNDS, WHOLE, made
from ..execution.state import allocate, basis
from ..execution.update_task import Task
from ..model.fsdp.sharded_tensors import local
from ..model.placement.homes import all_near, device_of, home
from ..policy.job import BASIS
from .gradients.finiteness import Checks
from .gradients.repeated_checks import FEW
from .groups.hyperparameters import rates
from .offloaded import deferred
from .probing.measured import Measured
from .probing.shifts import Shifts
from .repeated_updates import RepeatedUpdates
from .windows.provisional import ProvisionalWindows
from .windows.resolved import Resolved
from .windows.windows import Windows

__all__ = ["NOTHING", "Updates"]

NOTHING: Checks = {}


class Updates:
    """What `Parameters` has to update its parameters with, and to make the state that they move."""

    windows: Windows
    shifts: Shifts
    _measured: Measured
    _optimizer: Any
    _repeated_updates: RepeatedUpdates
    _provisional: ProvisionalWindows

    @property
    def _compiling(self) -> bool | int:
        raise NotImplementedError

    @property
    def _prepares(self) -> int:
        raise NotImplementedError

    def carry_out(self, work: Iterable[Named], sound: Tensor | None = None, checks: Checks = NOTHING) -> None:
        """Update parameters; what is not contiguous is updated in a contiguous copy, which is written back.

        Those that rest elsewhere are updated when they are fetched.

        Args:
            work: the parameters; their gradients are in `.grad`, or come from probes.
            sound: bool [] on their device: where it is False, no weight and no state changes. None: it is True.
            checks: what `finiteness.check_finite` has found of their gradients, which are the same since.
        """
        work, compile = list(work), self._compiling
        if sound is not None or len(work) < FEW:
            self._carry_out(work, sound, compile, checks)
            return
        found = any(one.numbers is not None for one in checks.values())  # what was found is for this step alone
        setting = compile, self.windows.edition, all_near(), found
        left = work if self._prepares else self._repeated_updates.carry_out(work, self._optimizer.state, setting)
        ran = self._carry_out(left, None, compile, checks) if left else {}
        if len(left) == len(work):
            self._repeated_updates.learn(work, self.windows, ran, setting)

    def allocate(self) -> None:
        """Make all state that is missing, as a step with gradients of 0 would."""
        for one in self.windows.all():
            if one.slots and not one.idle and not one.empty:
                elsewhere = one.share is not None and one.share.way == WHOLE and not one.share.owns
                self._raw(one, None if elsewhere else torch.zeros(one.own.shape, device=one.p.device))

    # ---- one parameter

    def _carry_out(self, work: Sequence[Named], sound: Tensor | None, compile: bool | int, checks: Checks) -> Ran:
        """Do as `carry_out`; return which backend has carried out which tasks."""
        tasks: list[Task] = []
        waiting = Waiting()  # for other ranks
        known: dict[int, tuple] = {}
        for name, p in work:
            one = self.windows.of(name, p)
            grad = self._estimate(one) if one.probed else p.grad
            grad = grad if one.share is None else cut_as(p, grad)
            if grad is None or one.idle or one.empty:
                continue
            if id(one.group) not in known:
                known[id(one.group)] = rates(one.group)
            lr, decay = known[id(one.group)]
            if one.share is not None and one.share.way == WHOLE:
                waiting.add_whole(self._whole(one, grad, (lr, decay, sound, None)), local(p))
                continue
            task = self._task(one, p.detach(), grad, (lr, decay, sound, checks.get(name)))
            if (resting := home(p)) is not None:
                resting.later(deferred(task, p, _compiles(compile)), one.group["step"])
                continue
            if one.share is not None and one.share.way == ROUNDS:
                waiting.add_rounds(task, one.share.rows, local(p))
                continue
            live = p if one.share is None else local(p)
            if not live.numel():
                continue
            copied = task.param.data_ptr() != live.data_ptr()
            if copied or one.probed:
                _run([task], compile)
            else:
                tasks.append(task)
            if copied:
                live.copy_(task.param.view(live.shape))
        if compile is not True and compile is not False and (later := self._prepares):
            prepare(tasks, later)
        ran = run(tasks, compile)
        waiting.carry_out(lambda some: _run(some, compile))
        return ran

    def _estimate(self, one):
        """Return the gradient of a parameter with probes; None where this step leaves it alone."""
        source, p = one.job.treatment.source, one.p
        backprop = p.grad.contiguous() if source.backward and p.grad is not None else None
        terms = self.shifts.terms(one, self._measured.slopes or ())
        if backprop is None and not terms:
            return None
        grad = ProbeGradient(terms, tuple(p.shape), device_of(p), one.job.arithmetic, backprop, source.share)
        if one.share is None:
            return grad
        before = elements_before(one.share.rows, tuple(p.shape))
        own = None if backprop is None else local(cut_as(p, backprop))
        return replace(grad, shape=tuple(local(p).shape), backprop=own, start=before, before=before)

    def _task(self, one: Resolved, param: Tensor, grad: Tensor, numbers: tuple) -> Task:
        """Make the task that updates a parameter, or this rank's rows of it, and count its state's age.

        numbers: learning rate, decay, `sound`, and what the check has found.
        """
        own, group, share, before = one.own, one.group, one.share, 0
        assert one.store is not None  # the optimizer has looked
        shape = own.shape
        if share is not None and share.way != WHOLE:
            param, grad, before = local(param), local(grad), elements_before(share.rows, one.job.shape)
            shape = (share.rows.count, *own.shape[1:]) if share.way == ROUNDS else shape
        if param.shape != shape or not param.is_contiguous() or param.is_neg():
            param = param.reshape(shape).contiguous().resolve_neg()
        if not one.probed and (grad._is_zerotensor() or grad.is_neg()):
            grad = grad.clone().resolve_neg()  # without memory, or with numbers of the other sign, which kernels read
        if one.probed or grad.shape != shape or not grad.is_contiguous():  # of probes: no tensor yet
            grad = grad.reshape(shape).contiguous()
        lr, decay, sound, check = numbers
        raw, age = self._raw(one, grad, sound) if one.slots else {}, group["step"] + 1
        if raw:
            state = self._optimizer.state[one.p]
            state["step"] = age = state["step"] + 1
        stream = group["seed"], one.name
        return Task(param, grad, raw, own, one.store, lr, decay, age, stream, group["step"], sound, before, check)

    def _whole(self, one: Resolved, grad: Tensor, numbers: tuple) -> Gathered:
        """Return a sharded parameter that one rank updates, which makes its task when it has all rows.

        numbers: learning rate, decay, `sound`, and what the check has found.
        """
        share = one.share
        assert share is not None
        if not share.owns and one.slots:
            self._raw(one, None, numbers[2])
            self._optimizer.state[one.p]["step"] += 1
        param, shape = local(one.p.detach()).contiguous(), tuple(one.p.shape)
        if not isinstance(grad, ProbeGradient):
            own = local(grad).contiguous()
            return Gathered(param, own, share, shape, lambda p, grad: self._task(one, p, grad, numbers))

        def probed(p, backprop=None):
            return self._task(one, p, replace(grad, shape=shape, backprop=backprop, start=0, before=0), numbers)

        return Gathered(param, grad.backprop, share, shape, probed)

    def _raw(self, one: Resolved, grad: Tensor | None, sound: Tensor | None = None) -> State:
        """Return the raw state tensors; missing ones are made, and the split's are drawn.

        Args:
            one: the parameter.
            grad: its gradient; None where another rank draws them.
            sound: where it is False, the split's stay as they are.
        """
        wanted, state = one.slots, self._optimizer.state[one.p]
        if not state:
            state.update(step=0, window=one.window)
        missing = wanted.keys() - state.keys()
        if missing:
            new = [k for k in wanted if k in missing]
            state.update({k: self._made(one, k) for k in new})
        raw = {k: state[k] if one.share is None else local(state[k]) for k in wanted}
        fresh = bool(missing) and any(k.startswith(BASIS) for k in missing)
        if fresh or state["window"] != one.window:
            draw = replace(self.windows.draw(one.group, one.name, one.window), fresh=fresh)
            if sound is not None:
                self._provisional.note(one, raw if grad is not None else {}, state["window"], frozenset(missing))
            if grad is not None:
                at = basis(one.own, raw)
                with guarded(sound, at.values):
                    one.own.part.sample(grad, at, draw)
            state["window"] = one.window
        return raw

    def _made(self, one: Resolved, key: str) -> Tensor:
        """Make a raw state tensor of zeros."""
        if one.share is None:
            return allocate(one.slots[key], one.p.device)
        return made(key, one.job, one.share, one.p.device)


def _run(tasks, compile):
    """Carry out tasks, some of which may have gradients from probes."""
    for task in tasks:
        if isinstance(task.grad, ProbeGradient):
            run_estimated(task, _compiles(compile))
    run([task for task in tasks if not isinstance(task.grad, ProbeGradient)], compile)


def _compiles(compile):
    return compile is True or compile >= WORTH_COMPILING
