"""The torch optimizer that carries out a policy."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from . import loading
from .base import stream
from .errors import HybridOptError, HybridOptWarning, check_choice
from .gradients import NONFINITE, Drop, sound
from .policy import Ready, check_routes, read_policy
from .slices import update_in_slices
from .splits.empty import Empty
from .state import allocate, basis, declare
from .tagging import Tags, check_numbers, named
from .update import Now
from .windows import Windows

__all__ = ["HybridOptimizer"]


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
        check_numbers({"lr": lr, "weight_decay": weight_decay})
        if isinstance(params, torch.nn.Module):
            raise HybridOptError(
                f"params={type(params).__name__} is a module; give its named_parameters(), or wrap it"
            )
        self._tags = Tags(read_policy(policy, policy_options), seed, roles)
        self.nonfinite, self._alive = nonfinite, 0  # parameters that required gradients when last looked at
        self._hooks: dict[str, torch.utils.hooks.RemovableHandle] = {}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        check_routes(self._tags.policy, self._tags.roles)
        if not self.param_groups:
            raise HybridOptError("nothing to train: the policy freezes every parameter given")

    # ---- groups

    def add_param_group(self, param_group: dict) -> None:
        """As torch's; the parameters are tagged by the policy and fall into one group a treatment."""
        own = isinstance(param_group, dict) and set(param_group)
        super().add_param_group(self._tags.with_names(param_group))
        group = self.param_groups.pop()
        check_numbers(group)
        parts = self._tags.divide(group, self.param_groups, "weight_decay" in (own or ()))
        self.param_groups += parts
        self._alive += sum(p.requires_grad for part in parts for p in part["params"])
        self._look_anew()
        for each in self.param_groups:
            self._turn(each)

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
        self._check_alive()
        work = [(g, n, p) for g in self.param_groups for n, p in named(g) if p.grad is not None]
        if work and sound([(n, p.grad) for _, n, p in work], self.nonfinite, self.param_groups[0]["step"]):
            for group in self.param_groups:
                self._turn(group)
            for group, name, p in work:
                self._update(group, name, p)
            for group in self.param_groups:
                group["step"] += 1
        return loss

    def _check_alive(self):
        """Parameters that lost requires_grad: nothing left to train is an error, fewer than before a warning."""
        alive = sum(p.requires_grad for g in self.param_groups for p in g["params"])
        lost, self._alive = alive < self._alive, alive
        if not lost:
            return
        name = next(n for g in self.param_groups for n, p in named(g) if not p.requires_grad)
        cure = "after switching adapters make a new optimizer with model.hybrid.optimizer()"
        if not alive:
            self._alive = 1  # the next step raises again
            raise HybridOptError(
                f"nothing to train any more: {name!r} and all other parameters of this optimizer have "
                f"requires_grad=False now; {cure}"
            )
        warnings.warn(f"{name!r} (at least) was frozen since the last step; {cure}", HybridOptWarning, stacklevel=5)

    def _turn(self, group):
        """Where a new window has begun, or other blocks are in turn: let go of old state before any new is made."""
        window = self._windows.now(group)
        for name, p in named(group):
            state = self.state.get(p)
            job = self._windows.job(group, name, p) if state else None
            if state and isinstance(job.part, Empty):
                del self.state[p]
            elif state and state["window"] != window:
                wanted = {} if job.treatment.reset else declare(job)
                kept = {k: state[k] for k, s in wanted.items() if k in state and state[k].shape == s.shape}
                kept = {k: v for k, v in kept.items() if not k.startswith("split.")}
                self.state[p] = {"step": state["step"] if kept else 0, "window": window} | kept

    def _update(self, group, name, p):
        job = self._windows.job(group, name, p)
        if job.idle or p.numel() == 0:
            return
        param, grad = p.detach().reshape(job.shape), p.grad.reshape(job.shape)
        raw, age = self._raw(group, name, p, job, grad), group["step"] + 1
        if raw:
            age = self.state[p]["step"] = self.state[p]["step"] + 1
        lr = group["lr"].reshape(()) if isinstance(group["lr"], Tensor) else group["lr"]
        now = Now(lr, group["weight_decay"], age, stream(group["seed"], name, group["step"]))
        update_in_slices(param, grad, raw, job, job.treatment.store_for(p.dtype), now)
        if param.data_ptr() != p.data_ptr():  # a layout that cannot be viewed as a matrix was copied
            p.copy_(param.view(p.shape))

    def _raw(self, group, name, p, job, grad):
        """The raw state tensors; missing ones are made, and the split's are drawn."""
        wanted = declare(job)
        if not wanted:
            return {}
        if not self.state[p]:
            self.state[p] = {"step": 0, "window": self._windows.now(group)}
        state = self.state[p]
        missing = [k for k in wanted if k not in state]
        state.update({k: allocate(wanted[k], p.device) for k in missing})
        raw = {k: state[k] for k in wanted}
        if any(k.startswith("split.") for k in missing):
            job.part.sample(
                grad.to(job.arithmetic), basis(raw), self._windows.draw(group, name, self._windows.now(group))
            )
        return raw

    # ---- gradients of parameters that stand still

    def _look_anew(self):
        """After any change of the groups: forget what was derived from them, watch for idle gradients."""
        self._windows = Windows(self._tags, self.param_groups)
        for group in self.param_groups:
            if getattr(self._tags.treatment(group).free, "idle", False):
                for name, p in named(group):
                    if name not in self._hooks and p.requires_grad:
                        drop = Drop(self, lambda optimizer, p, name=name: optimizer._windows.idle(name, p))
                        self._hooks[name] = p.register_post_accumulate_grad_hook(drop)

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
            self.register_load_state_dict_pre_hook(
                lambda _, saved: loading.match(self.param_groups, self._windows.job_at, saved, found)
            ),
            self.register_load_state_dict_post_hook(lambda _: self.state.update(found), prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def state_dict(self) -> dict:
        """As torch's; a parameter without state has an empty entry, as torch.distributed.checkpoint wants it."""
        hook = self.register_state_dict_post_hook(lambda _, saved: loading.complete(saved), prepend=True)
        try:
            return super().state_dict()
        finally:
            hook.remove()

    def __getstate__(self) -> dict:
        return super().__getstate__() | {k: self.__dict__[k] for k in ("_tags", "nonfinite", "_alive")}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("_hooks", {})
        self._look_anew()
