"""What a step does to the parameters of an optimizer, all at once or one by one."""

import weakref
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from ..core.contracts import Noise
from ..core.errors import HybridOptError
from ..execution import shards
from ..execution.probe_gradient import ProbeGradient
from ..execution.probed import run_estimated
from ..execution.run import run
from ..execution.state import allocate, basis
from ..execution.task import Task
from ..model.roles import codes_dtype
from ..parts.splits.empty import Empty
from ..policy.job import BASIS, declare
from ..policy.treatment import Treatment
from .groups import Tags, named
from .probing.draws import Noises
from .windows import Windows, turned

__all__ = ["WORTH_COMPILING", "Parameters", "Work"]

WORTH_COMPILING = 50_000_000  # elements, on a CPU
Work = tuple[str, Tensor]  # a parameter with its name


class Parameters:
    """The parameters of an optimizer by name, its state, and how both move; made anew when its groups change."""

    def __init__(self, optimizer, tags: Tags, compile: bool | str, course, trainable: frozenset[str]):
        self._optimizer, self._course, self._trainable = weakref.proxy(optimizer), course, trainable
        self.windows = Windows(tags, optimizer.param_groups)
        self.noises = Noises(self.windows)
        self._groups = {name: group for group in optimizer.param_groups for name in group["param_names"]}
        for name, p in self.params():
            shards.cut(name, self.windows.job(self._groups[name], name, p), p)
        self._check_shared()
        self._compiles = self._worth_compiling() if compile == "auto" else compile

    @property
    def compiles(self) -> bool:
        """Are updates compiled? Not under a mode that sees every operation, where torch.compile refuses to work."""
        return self._compiles and not is_in_torch_dispatch_mode(include_infra_modes=False)

    def params(self) -> Iterable[Work]:
        """All parameters, group by group."""
        return ((n, p) for group in self._optimizer.param_groups for n, p in named(group))

    def treatment(self, name: str) -> Treatment:
        """How a parameter is trained."""
        return self.windows.treatment(self._groups[name])

    def skips(self, name: str) -> bool:
        """Is this parameter's gradient to be thrown away, as the step's probe was? HybridOptError if there is none."""
        if self._course.wanted and not self._course.pending:
            raise HybridOptError(
                f"{name!r} is updated within the backward pass, and the probe of this step comes first: call "
                "optimizer.probe(loss_fn) before loss.backward()"
            )
        return self._course.skipping

    def groups(self) -> list[dict]:
        """The optimizer's param groups."""
        return self._optimizer.param_groups

    def rate(self, name: str) -> float:
        """The learning rate of all of a parameter, or of its state-free part."""
        t = self.treatment(name)
        scale = 1.0 if t.tag == "state-full" else t.free_lr_scale
        return float(self._groups[name]["lr"]) * t.lr_scale * scale

    def noise(self, name: str, p: Tensor, index: int) -> Noise | None:
        """A random direction of this step; None where the parameter is left alone."""
        return None if self._rests(name, p) else self.noises.of(self._groups[name], name, p, index)

    def prepare(self, samples: int) -> None:
        """Work out what the directions of small parameters have in common beforehand."""
        probed = [(n, p) for n, p in self.params() if self.treatment(n).probed and not self._rests(n, p)]
        self.noises.prepare([(self._groups[n], n, p) for n, p in probed], samples)

    def terms(self, name: str, p: Tensor, slopes: Sequence[float]) -> tuple[tuple[float, Noise], ...]:
        """(weight, direction) of everything that a gradient has of directions."""
        return () if self._rests(name, p) else self.noises.terms(self._groups[name], name, p, slopes)

    def _rests(self, name, p):
        """Does it stand still whatever is measured? Then it is not shifted either, which would only add noise."""
        return self._frozen(name, p) or self.idle(name, p)

    def _frozen(self, name, p):
        """Does its owner want it to stand still? `wrap` itself switches off requires_grad where only probes train."""
        return not p.requires_grad and (self.treatment(name).source.backward or name not in self._trainable)

    def check_trained(self) -> None:
        """Raise HybridOptError if no parameter is left that probes could train."""
        probed = [(n, p) for n, p in self.params() if self.treatment(n).probed]
        if all(self._frozen(n, p) for n, p in probed):
            raise HybridOptError(
                f"nothing to train by probes: {probed[0][0]!r} and all others have requires_grad=False; set it to "
                "True for those that probes should train, or let hybridopt.wrap(model, policy=...) make the optimizer"
            )

    def waiting(self) -> list[Work]:
        """The parameters that have a gradient from the backward pass, and take it."""
        return [(n, p) for n, p in self.params() if p.grad is not None and self.treatment(n).source.backward]

    def due(self) -> list[Work]:
        """The parameters that have a gradient, from the backward pass or from probes."""
        probed = self._course.slopes is not None
        given = {n for n, _ in self.waiting()}
        return [(n, p) for n, p in self.params() if n in given or (probed and self.treatment(n).probed)]

    @property
    def step(self) -> int:
        """Steps taken."""
        return self._optimizer.param_groups[0]["step"]

    @property
    def previous(self) -> float | None:
        """The norm of all gradients one step ago, where it was kept."""
        return self._optimizer.param_groups[0].get("grad_norm")

    def idle(self, name: str, p: Tensor) -> bool:
        """Is this parameter left alone now?"""
        return self.windows.job(self._groups[name], name, p).idle

    def turn(self) -> None:
        """Where a new window has begun, or other blocks are in turn: let go of old state before any new is made."""
        states = self._optimizer.state
        for name, p in self.params():
            state, group = states.get(p), self._groups[name]
            job = self.windows.job(group, name, p) if state else None
            if state and isinstance(job.part, Empty):
                del states[p]
            elif state and state["window"] != self.windows.now(group):
                states[p] = turned(state, job, self.windows.now(group))

    def carry_out(self, work: Iterable[Work]) -> None:
        """Update parameters; another memory layout was copied into the job's shape, and is copied back at once."""
        tasks = []
        for name, p in work:
            group, probed = self._groups[name], self.treatment(name).probed
            grad = self._estimate(group, name, p) if probed else p.grad
            task = self._task(group, name, p, grad) if grad is not None and shards.local(p).numel() else None
            moved = task and task.param.data_ptr() != shards.local(p).data_ptr()
            if task and probed:
                run_estimated(task, self.compiles)
            elif moved:
                run([task], self.compiles)
            elif task:
                tasks.append(task)
            if moved:
                shards.local(p).copy_(task.param.view(shards.local(p).shape))
        run(tasks, self.compiles)

    def _estimate(self, group, name, p):
        """The gradient of a parameter with probes; None where this step leaves it alone."""
        source = self.windows.treatment(group).source
        backprop = p.grad.contiguous() if source.backward and p.grad is not None else None
        terms = self.terms(name, p, self._course.slopes)
        if backprop is None and not terms:
            return None
        dtype = self.windows.job(group, name, p).arithmetic
        return ProbeGradient(terms, tuple(p.shape), p.device, dtype, backprop, source.share)

    def _task(self, group, name, p, grad):
        """What is to be done to a parameter; None where it is left alone. Counts its state's age."""
        job = self.windows.job(group, name, p)
        if job.idle:
            return None
        own = shards.cut(name, job, p)
        param, grad = (shards.local(x).reshape(own.shape).contiguous() for x in (p.detach(), grad))
        raw, age = self._raw(group, name, p, own, grad), group["step"] + 1
        if raw:
            age = self._optimizer.state[p]["step"] = self._optimizer.state[p]["step"] + 1
        lr = group["lr"].reshape(()) if isinstance(group["lr"], Tensor) else group["lr"]
        decay = 1 - lr * group["weight_decay"]
        store = job.treatment.store_for(codes_dtype(p) or p.dtype)
        return Task(
            param, grad, raw, own, store, lr, decay, age, (group["seed"], name, *shards.place(p)), group["step"]
        )

    def _raw(self, group, name, p, job, grad):
        """The raw state tensors; missing ones are made, and the split's are drawn."""
        wanted, states = declare(job), self._optimizer.state
        if not wanted:
            return {}
        window = self.windows.now(group)
        if not states[p]:
            states[p] = {"step": 0, "window": window}
        state, full = states[p], declare(self.windows.job(group, name, p))
        missing = [k for k in wanted if k not in state]
        state.update({k: shards.like(allocate(wanted[k], p.device), p, full[k]) for k in missing})
        raw = {k: shards.local(state[k]) for k in wanted}
        if state["window"] != window or any(k.startswith(BASIS) for k in missing):
            job.part.sample(grad, basis(raw), self.windows.draw(group, name, window))
            state["window"] = window
        return raw

    def allocate(self) -> None:
        """Make all state that is missing, as a step with gradients of 0 would."""
        for name, p in self.params():
            group = self._groups[name]
            job = self.windows.job(group, name, p)
            if not job.idle and declare(job) and shards.local(p).numel():
                own = shards.cut(name, job, p)
                self._raw(group, name, p, own, torch.zeros(own.shape, device=p.device))

    def _check_shared(self):
        """Raise HybridOptError for a probed tensor with two names: it would be shifted by one, and updated by both."""
        first: dict[int, str] = {}
        for name, p in self.params():
            if first.setdefault(id(p), name) != name and self.treatment(name).probed:
                raise HybridOptError(
                    f"{first[id(p)]!r} and {name!r} are one parameter, which zeroth-order training can shift under "
                    "one name only; give it once, as model.named_parameters() does"
                )

    def _worth_compiling(self):
        params = [p for _, p in self.params()]
        return any(p.is_cuda for p in params) or sum(p.numel() for p in params) >= WORTH_COMPILING
