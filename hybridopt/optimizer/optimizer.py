"""The torch optimizer that carries out a policy."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..core.errors import HybridOptError, HybridOptWarning
from ..policy.plan import Entry, check_scheme
from ..policy.routes import Ready, check_routes, read_policy
from ..policy.start_rates import learning_rate
from . import beside_shards, conflicts
from .arguments import check_options
from .backward import BackwardPass
from .gradient_methods import GradientMethods
from .gradients.clip import Clip
from .groups.declared_roles import Known, in_model, params_of
from .groups.first_group_lr import FirstGroupRate
from .groups.hyperparameters import check_numbers
from .groups.tags import Tags, named, trainable_of
from .idle_steps import IdleSteps
from .loss_methods import LossMethods
from .membership.membership import Membership
from .membership.module_tree import Tree
from .membership.requires_grad import TrainableCount
from .parameters import Parameters
from .probing.state import ProbeState
from .rank_agreement import Agreement
from .releases import DEFAULT, release_class
from .replicas.replicas import Replicated
from .state_dicts.loaded_in_place import LoadedInPlace
from .state_dicts.persistent import Persistent
from .training_ranks import TrainingRanks
from .unreached import UnreachedParameters
from .windows.loss_windows import windows_of

__all__ = ["HybridOptimizer"]

OPTIONS = ("release", "nonfinite", "compile")
COPIED = (*OPTIONS, "_tags", "_tree", "_trainable_count", "_idle_steps", "_pace", "_training_ranks", "_clip")


class HybridOptimizer(GradientMethods, LossMethods, Persistent):
    """Train every parameter as a policy says: state-full, state-free, or split.

    Args:
        params: what torch optimizers take: tensors, (name, tensor) pairs, or group dicts (with own lr, weight_decay).
        lr: learning rate, a number or a tensor of one element; "pretrain", "full" or "lora": where the policy is
            started from, for random weights, all weights of a trained model, or adapters. None: what the policy's
            options say, or else "lora" with adapters and "full" without; 1e-3 by own routes.
        weight_decay: decoupled; norms and biases are exempt in most policies, a group's own value always counts.
        policy: a name, a Policy, or a path to a policy .json.
        seed: of every random choice; the global generators are never touched.
        nonfinite: what an infinite or NaN gradient does: "raise" an error, "skip" the step, or "ignore". With
            release="fused" "skip" skips the parameter, and "raise" comes before the parameter is changed, but after
            others were: on a CPU in the backward pass, on a GPU in `step()`, which reads all flags at once.
        compile: updates by compiled kernels: True, False, or "auto": on GPUs; on CPUs from a million elements on, or
            else from step 100 on, those in C++, which a C++ compiler makes once a machine, and from 50 million on what
            else torch.compile makes. Results differ by rounding only.
        roles: role, Param, or Entry of a Plan, by parameter name; None: those of `module`. What is missing is guessed
            from name and shape. Of an Entry the treatment is taken as it is.
        module: the model of the parameters: it tells their roles, and probes shift one of its modules at a time.
            Without it names tell the roles, and probes shift all parameters at once, in a copy.
        release: "accumulate": updates in `step`; "fused": inside the backward pass, each gradient freed at once.
        clip: the largest gradient norm; None and infinity do not clip. Refused where no parameter takes gradients.
            With release="fused" clipping by others, as by torch's clip_grad_norm_, finds no gradients.
        clip_mode: whose norm counts: of all gradients together ("global"; fused release needs `measure(loss)` first),
            of each by itself ("tensor"), or of all of them one step ago ("previous").
        process_group: torch's, of the processes that train this model together: they exchange losses, and are
            compared. None: those of its shards or its DistributedDataParallel, or else all processes.
        policy_options: those of the policy that is named, such as density or update_gap.

    Parameters with requires_grad=False stand still; where a `Param` or `Entry` in `roles` (as `wrap` gives) says
    trainable, probes train them all the same.

    Param groups hold plain numbers and strings, among them `tag`, `param_names`, `seed`, and `step`, the clock by
    which the state-full part is chosen anew. Raises HybridOptError, naming the parameter, for what cannot be trained.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor | str | None = None,
        weight_decay: float = 0.0,
        policy: str | Ready = "frugal",
        seed: int = 0,
        nonfinite: str = "raise",
        compile: bool | str = "auto",
        roles: Mapping[str, Known] | None = None,
        release: str = DEFAULT,
        clip: float | None = None,
        clip_mode: str = "global",
        module: torch.nn.Module | None = None,
        process_group: Any = None,
        **policy_options: Any,
    ):
        check_options(params, nonfinite, release, compile)
        policy = read_policy(policy, policy_options)
        found, tree = in_model(module) if roles is None else (roles, {})
        params = params if isinstance(params, Tensor) else list(params)
        lr = learning_rate(policy, lr, params_of(params, found))
        check_numbers({"lr": lr, "weight_decay": weight_decay})
        self._tags, self._tree = Tags(policy, seed, found, trainable_of(roles or {})), Tree(module)
        self._trainable_count, self._idle_steps = TrainableCount(), IdleSteps()
        planned = [known.treatment for known in (roles or {}).values() if isinstance(known, Entry)]
        self._pace = windows_of([*(route.use for route in policy.routes), *planned])
        self.compile, self.nonfinite, self.release = compile, nonfinite, release
        self._clip, self._training_ranks = Clip(clip, clip_mode), TrainingRanks(process_group)
        self._probing = ProbeState(module)
        self._start()
        self._tags.begin(params, tree)
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self._tags.keeps_groups = True  # a group that is added is the user's
        if text := self._tags.warning(weight_decay != 0):
            warnings.warn(text, HybridOptWarning, stacklevel=2)
        check_routes(self._tags.policy, self._tags.roles)
        if not self._parameters.windows.sections:
            raise HybridOptError("nothing to train: the policy freezes every parameter given")
        beside = (pair for group in self._membership.by_backward() for pair in named(group))
        if text := beside_shards.warning_of(beside, self._tree.module):
            warnings.warn(text, HybridOptWarning, stacklevel=2)
        self._clip.check(gradients=self.gradients_needed)
        self._release.check(self._parameters.params())
        self._backward.hook()
        self._membership.settle()
        if not self._tags.plan:
            self._tree.leave(self._membership.held())
        self._replicas.expect(self._tree.module, self._parameters.params())

    def _start(self):
        """Make what a copy of the optimizer does not take along, as it takes what is COPIED."""
        self._release, self._norm, self._stale = release_class(self.release)(self._clip), None, None
        options = {"release": self.release, "nonfinite": self.nonfinite, "clip": self._clip}
        self._agreement = Agreement(options, self._training_ranks, self._pace is not None)
        tags, probing, turns, pace = self._tags, self._probing, self._idle_steps, self._pace
        make = partial(Parameters, tags=tags, compile=self.compile, measured=probing.measured, turns=turns, pace=pace)
        self._membership = Membership(self, tags, self._tree, self._trainable_count, probing, make)
        self._replicas, self._loaded_in_place = Replicated(self), LoadedInPlace()
        self._backward = BackwardPass(self, self._membership, self._release, self._agreement, self._replicas)
        self._unreached, self._first_group_rate, self._asked_who_runs = UnreachedParameters(), FirstGroupRate(), False

    def __getstate__(self) -> dict:
        self._check_midway("copy")
        own = {name: self.__dict__[name] for name in COPIED}
        return super().__getstate__() | own | {"_probing": self._probing.copy()}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        copied = "_membership" not in self.__dict__  # torch calls this to load a state dict, too
        if copied:
            self._start()
        self._membership.rebuild()
        if copied:
            self._backward.hook()
        self._backward.watch()

    # ---- groups

    def add_param_group(self, param_group: dict) -> None:
        """Add a group of parameters, as torch's optimizers do; its parameters may have several treatments."""
        own_decay = isinstance(param_group, dict) and "weight_decay" in param_group
        super().add_param_group(self._tags.with_names(param_group))
        group = self.param_groups.pop()
        check_numbers(group)
        parts = self._tags.divide(group, self.param_groups, own_decay)
        together = (*self._tags.sections(self.param_groups), *parts)
        check_scheme((g["param_names"][0], self._tags.treatment(g)) for g in together)
        self.param_groups += self._tags.as_groups(group, parts, self.param_groups, own_decay)
        self._trainable_count.add(p for part in self._tags.by_backward(parts) for p in part["params"])
        self._probing.clear()
        self._membership.rebuild()
        self._backward.watch()
        self._parameters.open_windows()

    # ---- one step

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # no overloads
        """Update every parameter that has a gradient; without any gradient nothing happens, not even the clock moves.

        closure: torch's, called once with gradients enabled. Where the policy has zeroth-order parts it computes and
        returns the loss, nothing else: it is probed with, and then called once more for a backward pass if there are
        first-order parts. Returns its loss. Raises HybridOptError, before anything is changed, for sparse gradients,
        for gradients that are not finite (unless asked otherwise), without a probe where one is needed, and if
        gradients were switched off for all parameters, as PEFT does to an adapter when another one takes over.
        """
        conflicts.check_scaler(self)
        self._loaded_in_place.clear()
        loss = None if closure is None else self._run(closure)
        if self._stale:
            raise HybridOptError(self._stale)
        self._first_group_rate.check(self.param_groups)
        self._trainable_count.check([pair for group in self._membership.by_backward() for pair in named(group)])
        if not self._release.midway:
            self._probing.reshard()
            self._membership.follow()
        self._membership.followed = False
        self._replicas.seek(self._parameters)
        self._agreement.check(self._parameters, self._replicas.ddp)
        self._parameters.check_loss_told()
        self._backward.watch()
        if not self._probing.ready(self._parameters):
            return loss
        if skipped := self._probing.skips():
            moved, self._norm = True, None
            self._release.drop()
        else:
            self._unreached.check(self._parameters, self._release, self._probing)
            self._replicas.check(self._parameters)
            moved, self._norm = self._release.finish(self._parameters, self.nonfinite)
        self._parameters.told.forget()
        if moved:
            self._probing.end(self._parameters, skipped)
            for group in self.param_groups:
                group["step"] += 1
            if self._pace is not None:
                self._pace.turn(self._parameters.step, self._agreement.peers(self._parameters, self._replicas.ddp))
            self._clip.remember(self.param_groups, self._norm)
        self._probing.clear()
        self._replicas.stepped()
        self._idle_steps.arrived = False
        return loss

    def _run(self, closure):
        """Evaluate a closure, with a backward pass where it leaves that to the optimizer; return its loss."""
        probed = self.probe(closure) if self._probing.measured.wanted else None
        if probed is not None and not self.gradients_needed:
            self.observe(probed)
            return probed
        with nullcontext() if self._pace is None else self._pace.later(), torch.enable_grad():
            loss = closure()
            if probed is not None:
                loss.backward()
        if loss is not None:
            self.observe(loss)
        return loss if probed is None else probed
