"""The rows of hybridopt: every policy there is, and some options of them."""

from dataclasses import replace
from itertools import cycle
from typing import Any

import torch

from hybridopt import HybridOptError, HybridOptimizer, Policy
from hybridopt.core.registry import names
from hybridopt.parts.stores.dense import Dense
from hybridopt.policy.routes import read_policy

from .measure import LR, Make, Subject

OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "frugal": ("frugal", {"density": 0.25, "split": "columns"}),
    "frugal-rows": ("frugal", {"density": 0.25, "split": "rows"}),
    "frugal-0": ("frugal", {"density": 0.0}),
    "frugal-sinkhorn": ("frugal", {"density": 0.25, "free": "sinkhorn"}),
    "frugal-column_norm": ("frugal", {"density": 0.25, "free": "column_norm"}),
    "frugal-whiten": ("frugal", {"density": 0.25, "free": "whiten"}),
    "frugal-block": ("frugal", {"density": 0.25, "split": "block"}),
    "adamw-int8": ("adamw", {"codec": "int8"}),
    "adamw-companded8": ("adamw", {"codec": "companded8"}),
    "adamw-bf16": ("adamw", {"codec": "bf16"}),
}
HALVES: dict[str, tuple[str, dict[str, Any]]] = {  # of bfloat16 weights alone
    "adamw-split": ("adamw", {"store": "bf16_split"}),
    "adamw-split-companded8": ("adamw", {"store": "bf16_split", "codec": "companded8"}),
}
NEAREST = "+nearest"


def rows(dtype: torch.dtype, compile: str | bool) -> dict[str, Make]:
    """Return what makes each row's optimizer, by name; bf16 weights rounded at random, and again to nearest."""
    policies: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in names("policies")}
    policies |= OWN
    found = {f"hybridopt.{name}": maker(*policy, compile) for name, policy in policies.items()}
    if dtype != torch.bfloat16:
        return found
    near = {f"hybridopt.{n}{NEAREST}": maker(*policy, compile, nearest=True) for n, policy in policies.items()}
    return found | near | {f"hybridopt.{name}": maker(*policy, compile) for name, policy in HALVES.items()}


def maker(policy: str, options: dict, compile: str | bool, nearest: bool = False) -> Make:
    """Return what makes the optimizer of a policy.

    Args:
        policy: its name.
        options: of the policy.
        compile: "auto", True or False.
        nearest: round bf16 weights to nearest?
    """

    def make(params):
        use = read_policy(policy, options)
        use = rounded(use) if nearest else use
        optimizer = HybridOptimizer(params.items(), lr=LR, policy=use, compile=compile)
        return Subject(stepper(optimizer), optimizer, {"ignore": lambda: setattr(optimizer, "nonfinite", "ignore")})

    return make


def rounded(policy) -> Policy:
    """Return the same routes with weights rounded to nearest."""
    return Policy(tuple(replace(r, use=r.use and replace(r.use, store=r.use.store or Dense())) for r in policy.routes))


def stepper(optimizer: HybridOptimizer):
    """Return the step; where a policy asks for a probe, the probe (of a loss that costs nothing) is part of it."""
    losses = cycle((torch.tensor(1.0), torch.tensor(0.5)))
    needs_probe = False

    def step():
        nonlocal needs_probe
        if not needs_probe:
            try:
                return optimizer.step()
            except HybridOptError as error:
                needs_probe = "probe" in str(error) and hasattr(optimizer, "probe")
                if not needs_probe:
                    raise
        optimizer.probe(lambda: next(losses))
        return optimizer.step()

    return step
