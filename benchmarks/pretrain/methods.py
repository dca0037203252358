"""The rows of the pre-training table: every ready policy, with the learning rate that its search starts around."""

import warnings
from dataclasses import dataclass, field, fields

import torch
from torch import nn

import hybridopt
from hybridopt.core.registry import find, names

from ..shared.ladder import rung

# What is no row of a table of pre-training from random weights by backpropagation, and why.
ZEROTH_ORDER = "needs probes of the loss instead of gradients, and a pretrained model"
EXCLUDED = {
    "addax": ZEROTH_ORDER,
    "ip_sgd": "its update is lomo's",
    "lezo": ZEROTH_ORDER,
    "mezo": ZEROTH_ORDER,
    "subzero": ZEROTH_ORDER,
}


@dataclass(frozen=True)
class Method:
    """What `wrap` is given (policy None: torch.optim.AdamW instead), and the centre of the learning rates tried."""

    label: str
    centre: float
    policy: str | None
    options: dict = field(default_factory=dict)

    def rates(self, tries: int) -> list[float]:
        """Return the learning rates tried first: neighbours on the ladder 1e-3, 3e-3, 1e-2 ... around the centre."""
        lowest = -((tries - 1) // 2)
        return [rung(self.centre, lowest + i) for i in range(tries)]

    def settings(self, update_gap: int) -> dict:
        """Return the policy's name and options; the window is the run's wherever the policy has one."""
        if self.policy is None:
            return {"torch.optim": "AdamW"}
        gap = {"update_gap": update_gap} if "update_gap" in options_of(self.policy) else {}
        return {"policy": self.policy} | gap | self.options

    def optimizer(self, model: nn.Module, lr: float, weight_decay: float, seed: int, update_gap: int):
        """Return the optimizer; `model.hybrid` is there afterwards unless it is torch's own.

        Args:
            model: is wrapped.
            lr: learning rate.
            weight_decay: of all weights.
            seed: of the choice of subspaces.
            update_gap: steps of a window.
        """
        if self.policy is None:
            return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
        hybridopt.wrap(model, seed=seed, **self.settings(update_gap))
        return model.hybrid.optimizer(lr=lr, weight_decay=weight_decay)


def options_of(policy: str) -> set[str]:
    """Return the names of a policy's options."""
    return {option.name for option in fields(find("policies", policy))}


def ready() -> dict[str, Method]:
    """Return every method whose policy can be imported, in KNOWN's order; a policy without a row gets a plain one."""
    there = [name for name in names("policies") if name not in EXCLUDED and importable(name)]
    unknown = [name for name in there if name not in {method.policy for method in KNOWN.values()}]
    known = {name: method for name, method in KNOWN.items() if method.policy is None or method.policy in there}
    return known | {name: Method(name, 1e-3, name) for name in unknown}


def importable(policy: str) -> bool:
    """Tell whether a policy can be imported; the reason is shown if not."""
    try:
        find("policies", policy)
    except Exception as error:  # one broken policy is no reason to measure none
        warnings.warn(f"{policy} has no row: {type(error).__name__}: {error}", stacklevel=2)
        return False
    return True


QUARTER = {"density": 0.25}
SHORT = {"value_blocks": "whole"}  # what Adam-mini's authors advise for short runs
UNSCALED = {"scale_parameter": False}  # with it, and without momentum, the update is AdaLomo's
TRAINED = {"embeddings": "full"}  # no pretrained embeddings here that BAdam could leave as they are

KNOWN = {
    "adamw": Method("AdamW", 1e-3, "adamw"),
    "torch-adamw": Method("torch.optim.AdamW", 1e-3, None),
    "adamw-int8": Method("AdamW, 8-bit state", 1e-3, "adamw", {"codec": "int8"}),
    "frugal-columns": Method("FRUGAL ρ=0.25, columns", 1e-3, "frugal", QUARTER | {"split": "columns"}),
    "frugal-block": Method("FRUGAL ρ=0.25, block", 1e-3, "frugal", QUARTER | {"split": "block"}),
    "frugal-0": Method("FRUGAL ρ=0", 1e-3, "frugal", {"density": 0.0}),
    "galore": Method("GaLore ρ=0.25", 1e-2, "galore", QUARTER),
    "qgalore": Method("Q-GaLore, fp32 weights", 1e-2, "qgalore", QUARTER),
    "apollo": Method("APOLLO", 1e-2, "apollo"),
    "apollo_mini": Method("APOLLO-Mini", 1e-2, "apollo_mini"),
    "badam": Method("BAdam, one layer of four", 1e-3, "badam", TRAINED),
    "muon": Method("Muon", 3e-3, "muon"),
    "adam_mini": Method("Adam-mini", 1e-3, "adam_mini", SHORT),
    "adafactor": Method("Adafactor, not scaled by weights", 1e-3, "adafactor", UNSCALED),
    "came": Method("CAME", 3e-4, "came"),
    "lion": Method("Lion", 3e-4, "lion"),
    "adalomo": Method("AdaLomo", 3e-2, "adalomo"),
    "signsgd": Method("signSGD", 1e-3, "signsgd"),
    "sgd": Method("SGD with momentum", 1e-1, "sgd"),
    "lomo": Method("SGD (LOMO)", 3e-1, "lomo"),
}
