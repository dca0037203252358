"""The first-order methods whose memory is measured."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

import hybridopt
from hybridopt import Policy
from hybridopt.parts.splits.random import Random
from hybridopt.policy.routes import Ready, Route, read_policy

LR = 1e-6


@dataclass(frozen=True)
class Method:
    """A policy with options, when gradients are applied, and what is kept; without a policy, torch's own AdamW."""

    label: str
    policy: str | None = None
    options: dict = field(default_factory=dict)
    release: str = "accumulate"
    checkpointing: bool = True
    activations: str | None = None

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of a model that was just made or unwrapped."""
        if self.policy is None:
            return torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
        ready = read_policy(self.policy, self.options)
        policy = random_basis(ready) if self.policy == "galore" else ready
        wrapped: Any = hybridopt.wrap(model, policy=policy, activations=self.activations)
        return wrapped.hybrid.optimizer(lr=LR, release=self.release)


METHODS = {
    "torch-adamw": Method("torch AdamW fused, bf16 state"),
    "adamw": Method("AdamW", "adamw"),
    "adamw-fused": Method("AdamW, fused release", "adamw", release="fused"),
    "adamw-int8": Method("8-bit AdamW", "adamw", {"codec": "int8"}),
    "adam-mini": Method("Adam-mini", "adam_mini"),
    "frugal": Method("FRUGAL ρ=0.25, columns", "frugal", {"density": 0.25}),
    "frugal-fused": Method("FRUGAL ρ=0.25, columns, fused release", "frugal", {"density": 0.25}, "fused"),
    "frugal-0": Method("FRUGAL ρ=0", "frugal", {"density": 0.0}),
    "frugal-0-fused": Method("FRUGAL ρ=0, fused release", "frugal", {"density": 0.0}, "fused"),
    "adalomo": Method("AdaLomo", "adalomo"),
    "adalomo-fused": Method("AdaLomo, fused release", "adalomo", release="fused"),
    "kept": Method("FRUGAL ρ=0.25, fused, nothing recomputed", "frugal", {"density": 0.25}, "fused", False),
    "sampled": Method(
        "the same, three of ten rows of inputs kept (WTA-CRS)", "frugal", {"density": 0.25}, "fused", False, "wta-crs"
    ),
    "galore": Method("GaLore ρ=0.25 (a random basis: state and steps as with SVD)", "galore"),
}


def random_basis(policy: Ready[Route]) -> Policy:
    """Return GaLore's routes with a basis that costs no singular value decompositions; its bytes are the same."""

    def use(treatment):
        split = treatment and treatment.split
        same = type(split).__name__ != "Svd"
        return treatment if same else replace(treatment, split=Random(split.density, split.update_gap, split.side))

    return Policy(tuple(replace(route, use=use(route.use)) for route in policy.routes))
