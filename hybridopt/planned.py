"""A policy that is resolved on a model whenever needed, and what it has frozen there."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from .model.adapters import adapted_layers
from .model.roles import base_name, clean, of_base, params
from .policy.plan import Plan
from .policy.routes import Ready, Route

__all__ = ["Planned"]


class Planned:
    """A model, the policy that says by name how its parameters are trained, and the parameters frozen for it.

    Args:
        model: whose parameters are trained.
        policy: says how, by role and name.
        seed: of every random choice of training.
        plan: the policy resolved on the model as it is now; None: it is resolved when needed.
    """

    def __init__(self, model: nn.Module, policy: Ready[Route], seed: int, plan: Plan | None = None):
        self.model, self.policy, self.seed = model, policy, seed
        self._planned = plan, policy  # of the model as it was; made anew where anything of it has changed
        self._frozen: set[str] = set()

    @property
    def tags(self) -> dict[str, str]:
        """Return every parameter's tag by name: state-full, state-free, split or frozen."""
        return self.resolved().tags

    def to_train(self) -> list[Tensor]:
        """Return the parameters that an optimizer of the model would train now."""
        trained = self.resolved().trained
        return [p for name, p in self.model.named_parameters() if clean(name) in trained]

    def unfrozen(self) -> list[str]:
        """Return, by base name, the base model's parameters that are trained besides the adapters of a PeftModel."""
        return sorted(base_name(n) for n in self._trained(of_base(self.model))) if adapted_layers(self.model) else []

    def trainable(self) -> list[str]:
        """Return the names of the parameters that are trained and are not the base model's."""
        own = of_base(self.model)
        return sorted(clean(n) for n in self._trained(lambda name: not own(name)))

    def _trained(self, wanted: Callable[[str], bool]) -> list[str]:
        """Return the live names of the wanted ones among the parameters that train, or did before the policy froze."""
        live = self.model.named_parameters()
        return [n for n, p in live if wanted(n) and (p.requires_grad or clean(n) in self._frozen)]

    def resolved(self) -> Plan:
        """Return the plan as if no earlier one had frozen anything; the last one where no parameter has changed."""
        live = [p if p.name not in self._frozen else replace(p, trainable=True) for p in params(self.model)]
        plan, policy = self._planned
        same = plan is not None and policy is self.policy and plan.seed == self.seed
        if plan is None or not same or [e.param for e in plan.entries] != live:
            plan = Plan.of(live, self.policy, self.seed)
            self._planned = plan, self.policy
        return plan

    def _freeze(self, plan: Plan) -> None:
        """Set requires_grad=False on what the plan freezes or trains without gradients; before it, undo the last."""
        self._thaw()
        without = {e.param.name for e in plan.entries if e.treatment is None or not e.treatment.source.backward}
        for name, p in self.model.named_parameters():
            if p.requires_grad and clean(name) in without:
                p.requires_grad_(False)
                self._frozen.add(clean(name))

    def _thaw(self) -> None:
        """Make trainable again what `_freeze` has frozen."""
        for name, p in self.model.named_parameters():
            if clean(name) in self._frozen:
                p.requires_grad_(True)
        self._frozen = set()
