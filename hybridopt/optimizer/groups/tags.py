"""Param groups by treatment: names, roles and treatments of what an optimizer was given."""

import json
from collections.abc import Iterable, Mapping

from torch import Tensor

from ...core.errors import HybridOptError, check_choice
from ...model.hessian_blocks import guess_partition
from ...model.roles import ROLES, Param, clean, codes_dtype, guesses, uncontained
from ...policy.end_rates import unused
from ...policy.output_layers import state_free, unknown
from ...policy.plan import Entry, Plan
from ...policy.routes import Ready, pack_treatment
from ...policy.treatment import Treatment
from .declared_roles import Known
from .given_names import GivenNames
from .given_plan import GivenPlan
from .hyperparameters import check_options
from .sections import joined, sections

__all__ = ["Tags", "named", "trainable_of"]


class Tags:
    """Which parameter is trained how, by name; plain data, so it travels with copies of the optimizer.

    Args:
        policy: gives treatments by role and name.
        seed: of every random choice.
        roles: what is known of parameters beforehand, by name; everything else is guessed.
        trainable: names that probes train although they have requires_grad=False.
    """

    def __init__(self, policy: Ready, seed: int, roles: Mapping[str, Known], trainable: frozenset[str]):
        roles = {clean(name): role for name, role in zip(uncontained(roles), roles.values(), strict=True)}
        known = _without_treatments(roles)
        self.policy, self.seed, self.trainable = policy, seed, trainable
        self.roles = {n: r.role if isinstance(r, Param) else r for n, r in known.items()}
        self._partitions = {n: r.partition for n, r in known.items() if isinstance(r, Param)}
        self.plan, self._names = GivenPlan({n: r for n, r in roles.items() if isinstance(r, Entry)}), GivenNames()
        for name, role in self.roles.items():
            check_choice("HybridOptimizer", f"role of {name!r}", role, ROLES)
        self._treatments: dict[str, Treatment] = {}
        self.keeps_groups = False  # does a group that is given stay one, or is it divided by treatment?
        self._tree: dict[int, str] = {}
        self._guessed: list[Entry] = []  # until the optimizer is made
        self.owners: dict[str, int] = {}  # ranks that update whole sharded parameters, for the life of the run
        self.order: dict[str, int] = {}  # places of names in the model, where groups do not tell; see `ordered`

    def treatment(self, group: dict) -> Treatment:
        """Return how the parameters of a group of one treatment, or of a section, are trained."""
        return self._treatments[group["treatment"]]

    def sections(self, groups: Iterable[dict]) -> list[dict]:
        """Return what is trained alike: groups of one treatment, and the sections of all others."""
        return list(sections(groups, self._treatments))

    def by_backward(self, groups: Iterable[dict]) -> list[dict]:
        """Return those of such groups that have parameters, and take gradients from the backward pass."""
        return [group for group in groups if group["params"] and self.treatment(group).source.backward]

    def begin(self, given: Iterable, tree: Mapping[int, str]) -> None:
        """Take note of how parameters are given: in groups or not, with names of DistributedDataParallel or not.

        given: what an optimizer is made of. tree: the names in the model, by identity, where that is known.
        """
        self._tree = dict(tree)
        given = list(given)
        self.keeps_groups = bool(given) and isinstance(given[0], dict)
        self._names.begin(given)

    def unfrozen(self, found: Mapping[str, Tensor]) -> dict[str, str]:
        """Return how what was frozen when the plan was made is trained now, as groups say it, by name.

        found: parameters; what the plan does not know, freezes itself, or knows as something else is left out.
        """
        live = {n: self._param(n, found[n], role) for n, role in self.plan.roles_of(found).items()}
        alike = self.plan.unfrozen(live)
        return {n: self._label(t) for n, t in Plan.of(alike, self.policy, self.seed).trained.items()}

    def ordered(self, groups: Iterable[tuple[dict, Treatment]]) -> list[tuple[dict, Treatment]]:
        """Return groups in the order in which a plan of the model as it is now would make them.

        Those that parameters have joined later were made for others. Turns by position must not depend on that.
        """
        places = self.order
        if not places:
            return list(groups)
        return sorted(groups, key=lambda pair: min([places.get(n, len(places)) for n in pair[0]["param_names"]]))

    def with_names(self, group: dict) -> dict:
        """Give unnamed tensors names by their position, so that everything else can go by name."""
        if not isinstance(group, dict) or isinstance(group.get("params"), set | dict | None):
            return group  # torch says what is wrong
        check_options(group, self.policy.options())
        return self._names.name(group)

    def as_groups(self, group: dict, parts: list[dict], others: list[dict], own_decay: bool) -> list[dict]:
        """Return the param groups that a user's group becomes.

        Args:
            group: as torch has completed it, with `param_names`.
            parts: what `divide` has made of it.
            others: the groups that there are already.
            own_decay: was weight_decay given for this group?
        """
        numbers = {"user_group": 1 + max((g["user_group"] for g in others), default=-1)}
        if not self.keeps_groups:
            return [part | numbers for part in parts]
        numbers |= {"step": _clock(others), "seed": self.seed, "own_weight_decay": own_decay}
        names = [self._names.in_model(name) for name in group["param_names"]]
        return [joined(group | {"param_names": names}, parts, numbers)]

    def divide(self, group: dict, others: Iterable[dict], own_decay: bool) -> list[dict]:
        """Divide one group of named parameters into one group a treatment; frozen parameters are left out.

        Args:
            group: as torch has completed it, with `param_names`.
            others: the groups that there are already, whose clock is taken over.
            own_decay: was weight_decay given for this group? Then treatments do not change it.

        Raises:
            HybridOptError: for a name that is given twice, and for what the policy cannot train.
        """
        others = list(others)
        found = {self._names.in_model(n): p for n, p in zip(group["param_names"], group["params"], strict=True)}
        taken = [n for g in others for n in g["param_names"] if n in found]
        if taken or len(found) < len(group["params"]):
            raise HybridOptError(f"parameter names must differ; {(taken or group['param_names'])[:3]} are given twice")
        roles = guesses(found) | {n: role for n, p in found.items() if (role := self._known_role(n, p))}
        params = [self._param(n, p, roles[n]) for n, p in found.items()]
        step = _clock(others)
        parts: dict[str, dict] = {}
        for name, treatment in self._trained(params).items():
            label = self._label(treatment)
            part = parts.setdefault(label, group | self._plain(treatment, label, step))
            if treatment.weight_decay is not None and not own_decay:
                part["weight_decay"] = treatment.weight_decay
            part["params"].append(found[name])
            part["param_names"].append(name)
        self.roles |= roles
        return list(parts.values())

    def _known_role(self, name, p):
        """Return the role that was given for a parameter by its name, or by that in the model."""
        return self.roles.get(name) or self.roles.get(self._tree.get(id(p), ""))

    def warning(self, decays: bool) -> str | None:
        """Return what is to be said of the parameters that an optimizer was made of, once.

        decays: is there any weight decay?
        """
        guessed, self._guessed, tree, self._tree = self._guessed, [], self._tree, {}
        if self._names.unnamed and not tree:
            return unknown(self.policy, [entry.param for entry in guessed], decays)
        return state_free(guessed) or unused(self.policy, guessed)

    def _trained(self, params):
        """Return treatments by parameter name: as a plan has resolved them already, or by the policy."""
        planned = self.plan.of(params)
        if planned is not None:
            return Plan(tuple(planned), self.seed).trained
        plan = Plan.of(params, self.policy, self.seed)
        self._guessed += plan.entries
        return plan.trained

    def _param(self, name, p, role):
        shape = tuple(p.shape)
        blocks = self._partitions.get(name) or guess_partition(name, shape)
        return Param(name, role, shape, p.dtype, partition=blocks, codes=codes_dtype(p))

    def _plain(self, treatment, label, step):
        numbers = {"step": step, "seed": self.seed}
        return {"params": [], "param_names": [], "tag": treatment.tag, "treatment": label} | numbers

    def _label(self, treatment):
        """Write a treatment as text; own parts and callables of one name are told apart by a mark."""
        label = json.dumps(pack_treatment(treatment))
        while self._treatments.setdefault(label, treatment) != treatment:
            label += "'"
        return label


def _clock(groups: list[dict]) -> int:
    """Return the steps that were taken by these groups."""
    step: int = groups[0]["step"] if groups else 0
    return step


def trainable_of(roles: Mapping[str, Known]) -> frozenset[str]:
    """Return the names that are said to be trainable, whatever their requires_grad is."""
    known = _without_treatments(roles)
    return frozenset(clean(n) for n, r in known.items() if isinstance(r, Param) and r.trainable)


def _without_treatments(roles: Mapping[str, Known]) -> dict[str, str | Param]:
    return {n: r.param if isinstance(r, Entry) else r for n, r in roles.items()}


def named(group: dict) -> Iterable[tuple[str, Tensor]]:
    """Return (name, tensor) of every parameter of a group."""
    return zip(group["param_names"], group["params"], strict=True)
