"""The torch optimizer that carries out a policy."""

import json
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from . import loading
from .base import Draw, Population, stream
from .errors import HybridOptError, HybridOptWarning, check_choice, check_number
from .plan import Plan, arithmetic
from .policy import Ready, check_routes, pack_treatment, read_policy
from .roles import Param, clean, guess
from .slices import update_in_slices
from .splits.empty import Empty
from .state import Job, allocate, basis, declare, seen_as
from .treatment import Treatment
from .update import Now

__all__ = ["HybridOptimizer"]

NONFINITE = ("raise", "skip", "ignore")


class HybridOptimizer(torch.optim.Optimizer):
    """Train every parameter as a policy says: state-full, state-free, or split.

    Args:
        params: what torch optimizers take: tensors, (name, tensor) pairs, or group dicts (with own lr, weight_decay).
        lr: learning rate, a number or a tensor of one element.
        weight_decay: decoupled; norms and biases are exempt in most policies, a group's own value always counts.
        policy: a name, a Policy, or a path to a policy .json; policy_options are the named policy's.
        seed: of every random choice; the global generators are never touched.
        nonfinite: what an infinite or NaN gradient does: "raise" an error, "skip" the step, or "ignore".
        roles: role by parameter name; what is missing is guessed from name and shape.

    Param groups hold plain numbers and strings, among them `tag`, `param_names`, `seed`, and `step`, the clock by
    which the state-full part is chosen anew. Raises HybridOptError, naming the parameter, for what cannot be trained.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.0,
        policy: str | Ready = "frugal",
        seed: int = 0,
        nonfinite: str = "raise",
        roles: Mapping[str, str] | None = None,
        **policy_options: Any,
    ):
        check_choice("HybridOptimizer", "nonfinite", nonfinite, NONFINITE)
        _check_numbers({"lr": lr, "weight_decay": weight_decay})
        self._policy, self.seed, self.nonfinite = read_policy(policy, policy_options), seed, nonfinite
        self._roles, self._named, self._count, self._alive = dict(roles or {}), None, 0, False
        self._treatments: dict[str, Treatment] = {}
        self._forget()
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        check_routes(self._policy, self._roles)
        if not self.param_groups:
            raise HybridOptError("nothing to train: the policy freezes every parameter given")

    # ---- groups

    def add_param_group(self, param_group: dict) -> None:
        """As torch's; the parameters are tagged by the policy and fall into one group a treatment."""
        own = isinstance(param_group, dict) and set(param_group)
        super().add_param_group(self._name(param_group))
        group = self.param_groups.pop()
        _check_numbers(group)
        self.param_groups += self._by_treatment(group, "weight_decay" in (own or ()))
        self._alive = self._alive or any(p.requires_grad for p in group["params"])
        self._forget()
        self._watch()

    def _name(self, group):
        """Unnamed tensors get names by their position, so that everything else can go by name."""
        if not isinstance(group, dict) or isinstance(group.get("params"), set | dict):
            return group
        params = group.get("params", ())
        params = [params] if isinstance(params, Tensor) else list(params)
        unnamed = bool(params) and all(isinstance(p, Tensor) for p in params)
        if self._named and unnamed:
            return {**group, "params": params}  # torch refuses the mixture
        if self._named is False and not unnamed and params:
            raise ValueError(
                "all optimizer param groups should be with/without names. cannot add param group with names to the "
                "optimizer without names"
            )
        self._named = not unnamed
        start, self._count = self._count, self._count + len(params)
        return {**group, "params": [(f"param_{start + i}", p) for i, p in enumerate(params)] if unnamed else params}

    def _by_treatment(self, group, own_decay):
        found = {clean(n): p for n, p in zip(group["param_names"], group["params"], strict=True)}
        taken = [n for g in self.param_groups for n in g["param_names"] if n in found]
        if taken or len(found) < len(group["params"]):
            raise HybridOptError(f"parameter names must differ; {(taken or group['param_names'])[:3]} are given twice")
        roles = {n: self._roles.get(n) or guess(n, p) for n, p in found.items()}
        plan = Plan.of(
            [Param(n, roles[n], tuple(p.shape), p.dtype) for n, p in found.items()], self._policy, self.seed
        )
        parts: dict[str, dict] = {}
        for name, treatment in plan.trained.items():
            label = self._label(treatment)
            part = parts.setdefault(label, group | _empty_group(treatment, label, self._clock(), self.seed))
            if treatment.weight_decay is not None and not own_decay:
                part["weight_decay"] = treatment.weight_decay
            for key, value in (("params", found[name]), ("param_names", name)):
                part[key].append(value)
        self._roles |= roles
        return parts.values()

    def _label(self, treatment):
        """The treatment as text; own parts and callables of one name are told apart by a mark."""
        label = json.dumps(pack_treatment(treatment))
        while self._treatments.setdefault(label, treatment) != treatment:
            label += "'"
        return label

    def _clock(self):
        return self.param_groups[0]["step"] if self.param_groups else 0

    # ---- one step

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; without any gradient nothing happens, not even the clock moves.

        closure: torch's, called once with gradients enabled. Returns its loss. Raises HybridOptError, before anything
        is changed, for sparse gradients, for gradients that are not finite (unless asked otherwise), and if gradients
        were switched off for all parameters, as PEFT does to an adapter when another one takes over.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = [(g, n, p) for g in self.param_groups for n, p in _named(g) if p.grad is not None]
        if not work:
            self._check_alive()
        elif self._sound([(n, p.grad) for _, n, p in work]):
            for group in self.param_groups:
                self._turn(group)
            for group, name, p in work:
                self._update(group, name, p)
            for group in self.param_groups:
                group["step"] += 1
        return loss

    def _check_alive(self):
        if self._alive and not any(p.requires_grad for g in self.param_groups for p in g["params"]):
            name = self.param_groups[0]["param_names"][0]
            raise HybridOptError(
                f"nothing to train any more: {name!r} and all other parameters of this optimizer have "
                "requires_grad=False now; after switching adapters make a new one with model.hybrid.optimizer()"
            )

    def _sound(self, grads):
        """True if the step may go on."""
        for name, grad in grads:
            if grad.layout != torch.strided:
                raise HybridOptError(
                    f"the gradient of {name!r} is sparse ({grad.layout}); use nn.Embedding(sparse=False)"
                )
        if self.nonfinite == "ignore" or _all_finite([g for _, g in grads]):
            return True
        name = next(n for n, g in grads if not g.isfinite().all())
        text = f"the gradient of {name!r} is not finite at step {self._clock()}"
        if self.nonfinite == "raise":
            raise HybridOptError(f"{text}; nothing was changed. Lower lr, clip gradients, or pass nonfinite='skip'")
        warnings.warn(f"{text}; the step is skipped", HybridOptWarning, stacklevel=3)
        return False

    def _turn(self, group):
        """Where a new window has begun: let go of old state before any new is made."""
        for name, p in _named(group):
            state = self.state.get(p)
            window = self._window(group)
            if state and state["window"] != window:
                job = self._job(group, name, p)
                wanted = {} if job.treatment.reset else declare(job)
                kept = {k: state[k] for k, s in wanted.items() if k in state and state[k].shape == s.shape}
                kept = {k: v for k, v in kept.items() if not k.startswith("split.")}
                self.state[p] = {"step": state["step"] if kept else 0, "window": window} | kept
                if isinstance(job.part, Empty):
                    del self.state[p]

    def _update(self, group, name, p):
        job = self._job(group, name, p)
        if job.idle or p.numel() == 0:
            return
        param, grad = p.detach().reshape(job.shape), p.grad.reshape(job.shape)
        raw, age = self._raw(group, name, p, job, grad), group["step"] + 1
        if raw:
            age = self.state[p]["step"] = self.state[p]["step"] + 1
        now = Now(group["lr"], group["weight_decay"], age, stream(group["seed"], name, group["step"]))
        update_in_slices(param, grad, raw, job, job.treatment.store_for(p.dtype), now)
        if param.data_ptr() != p.data_ptr():  # a layout that cannot be viewed as a matrix was copied
            p.copy_(param.view(p.shape))

    def _raw(self, group, name, p, job, grad):
        """The raw state tensors; missing ones are made, and the split's are drawn."""
        wanted = declare(job)
        if not wanted:
            return {}
        if not self.state[p]:
            self.state[p] = {"step": 0, "window": self._window(group)}
        state = self.state[p]
        missing = [k for k in wanted if k not in state]
        state.update({k: allocate(wanted[k], p.device) for k in missing})
        raw = {k: state[k] for k in wanted}
        if any(k.startswith("split.") for k in missing):
            job.part.sample(grad.to(job.arithmetic), basis(raw), self._draw(group, name, self._window(group)))
        return raw

    # ---- windows

    def _window(self, group):
        gap = self._treatments[group["treatment"]].split.update_gap
        return group["step"] // gap if gap else 0

    def _job(self, group, name, p):
        window = self._window(group)
        if self._jobs.get(name, (None, None))[0] != window:
            self._jobs[name] = window, self.job(group, name, p, window)
        return self._jobs[name][1]

    def job(self, group: dict, name: str, p: Tensor, window: int) -> Job:
        """What is done to a parameter of a group in a window."""
        t = self._treatments[group["treatment"]]
        shape = seen_as(self._roles[name], tuple(p.shape))
        return Job(t, t.split.at(self._draw(group, name, window), shape), shape, arithmetic(p.dtype))

    def _draw(self, group, name, window):
        split = self._treatments[group["treatment"]].split
        if split not in self._populations:
            same = [g for g in self.param_groups if self._treatments[g["treatment"]].split == split]
            members = tuple((n, p.numel()) for g in same for n, p in _named(g))
            self._populations[split] = Population(members)
        return Draw(group["seed"], name, window, window * split.update_gap, self._populations[split])

    # ---- gradients of parameters that stand still

    def _watch(self):
        """Drop the gradients of idle parameters as soon as the backward pass has made them."""
        for group in self.param_groups:
            if getattr(self._treatments[group["treatment"]].free, "idle", False):
                for name, p in _named(group):
                    if name not in self._hooks and p.requires_grad:
                        self._hooks[name] = p.register_post_accumulate_grad_hook(_Drop(weakref.ref(self), name))

    def _idle(self, name, p):
        group = next((g for g in self.param_groups if name in g["param_names"]), None)
        return group is not None and self._job(group, name, p).idle

    def unhook(self) -> None:
        """Remove every hook from the parameters; the optimizer can still step."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks = {}

    # ---- saving and loading

    def load_state_dict(self, state_dict: dict) -> None:
        """As torch's, but matched by parameter name and exact: every tensor keeps its dtype, and bits.

        Raises HybridOptError, before anything is changed, for other parameters, shapes or treatments.
        """
        found: dict = {}
        hooks = (
            self.register_load_state_dict_pre_hook(lambda _, saved: loading.match(self, saved, found)),
            self.register_load_state_dict_post_hook(lambda _: self.state.update(found), prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def __getstate__(self) -> dict:
        own = ("_policy", "seed", "nonfinite", "_roles", "_named", "_count", "_alive", "_treatments")
        return super().__getstate__() | {k: self.__dict__[k] for k in own}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._forget()
        self._watch()

    def _forget(self):
        """What is derived, not kept."""
        self._jobs: dict[str, tuple[int, Job]] = {}
        self._populations: dict = {}
        self.__dict__.setdefault("_hooks", {})


class _Drop:
    """A hook without a reference to the optimizer, so that neither keeps the other alive."""

    def __init__(self, optimizer, name):
        self.optimizer, self.name = optimizer, name

    def __call__(self, p):
        optimizer = self.optimizer()
        if optimizer is not None and optimizer._idle(self.name, p):
            p.grad = None


def _named(group):
    return zip(group["param_names"], group["params"], strict=True)


def _empty_group(treatment, label, step, seed):
    return {"params": [], "param_names": [], "tag": treatment.tag, "treatment": label, "step": step, "seed": seed}


def _all_finite(grads):
    """A sum of finite numbers may overflow, but what is not finite always shows in it: look closely only then."""
    by_device: dict[torch.device, list] = {}
    for g in grads:
        by_device.setdefault(g.device, []).append(g.sum(dtype=torch.float32))
    if all(bool(torch.stack(sums).isfinite().all()) for sums in by_device.values()):
        return True
    return all(bool(g.isfinite().all()) for g in grads)


def _check_numbers(group):
    lr = group["lr"]
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise HybridOptError(f"lr must be a number or a tensor of one element, got shape {tuple(lr.shape)}")
        lr = lr.item()
    check_number("HybridOptimizer", "lr", lr, 0)
    check_number("HybridOptimizer", "weight_decay", group["weight_decay"], 0)
