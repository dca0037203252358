"""The methods of the pre-training table in the order in which they are measured, each with where its search starts."""

import warnings
from dataclasses import dataclass, field, fields

import hybridopt
from hybridopt.core.registry import find, names

from ..shared.ladder import rung
from .search import Cell

# What is no row of a table of pre-training from random weights, and why; nor are policies that probe the loss.
EXCLUDED = {
    "ip_sgd": "its update is lomo's",
    "sinkgd": "its update is that of FRUGAL at density 0 with Sinkhorn",
}
PROBES = "needs probes of the loss instead of gradients, and a pretrained model"


@dataclass(frozen=True)
class Method:
    """What `wrap` is given, and the centre of the learning rates tried.

    weights: dtype of the weights. falls: the density falls from 0.25 to 0.05 over the run (AdaFRUGAL).
    """

    label: str
    centre: float
    policy: str
    options: dict = field(default_factory=dict)
    weights: str = "float32"
    falls: bool = False

    def rates(self, tries: int) -> tuple[float, ...]:
        """Return the learning rates tried first: neighbours on the ladder 1e-3, 3e-3, 1e-2 ... around the centre."""
        lowest = -((tries - 1) // 2)
        return tuple(rung(self.centre, lowest + i) for i in range(tries))

    def settings(self, update_gap: int) -> dict:
        """Return the policy's name and options; the window is the run's wherever the policy has one."""
        gap = {"update_gap": update_gap} if "update_gap" in options_of(self.policy) else {}
        return {"policy": self.policy, "weights": self.weights, "falls": self.falls} | gap | self.options

    def wrap(self, model, cell: Cell, update_gap: int) -> None:
        """Attach the method to a model, as `model.hybrid`.

        Args:
            model: is wrapped.
            cell: the factor on the rate of embeddings and output layer, the seed of subspaces, and the run's steps.
            update_gap: steps of a window.
        """
        options = self.settings(update_gap) | {"embeddings_lr_scale": cell.factor}
        del options["weights"], options["falls"]
        if self.falls:
            options["density"] = find("schedules", "linear")(0.25, 0.05, cell.steps)
        hybridopt.wrap(model, seed=cell.seed, **options)


def options_of(policy: str) -> set[str]:
    """Return the names of a policy's options."""
    return {option.name for option in fields(find("policies", policy))}


def ready() -> dict[str, Method]:
    """Return every method whose policy can be imported, in KNOWN's order; a policy without a row gets a plain one."""
    there = [name for name in names("policies") if importable(name) and left_out(name) is None]
    unknown = [name for name in there if name not in {method.policy for method in KNOWN.values()}]
    known = {name: method for name, method in KNOWN.items() if method.policy in there}
    return known | {name: Method(name, 1e-3, name) for name in unknown}


def left_out(policy: str) -> str | None:
    """Return why a policy has no row; None where it has one."""
    if policy in EXCLUDED:
        return EXCLUDED[policy]
    probed = any(route.use is not None and route.use.probed for route in find("policies", policy)().routes)
    return PROBES if probed else None


def importable(policy: str) -> bool:
    """Tell whether a policy can be imported; the reason is shown if not."""
    try:
        find("policies", policy)
    except Exception as error:  # one broken policy is no reason to measure none
        warnings.warn(f"{policy} has no row: {type(error).__name__}: {error}", stacklevel=2)
        return False
    return True


def frugal(free: str, density: float, centre: float = 1e-3) -> Method:
    """Return FRUGAL with a rule without state and a density."""
    title = {"signsgd": "signSGD", "whiten": "whitening", "sinkhorn": "Sinkhorn"}[free]
    return Method(f"FRUGAL ρ={density:g}, {title}", centre, "frugal", {"density": density, "free": free})


QUARTER = {"density": 0.25}
UNSCALED = {"scale_parameter": False}  # with it, and without momentum, the update is AdaLomo's
TRAINED = {"embeddings": "full"}  # no pretrained embeddings here that BAdam could leave as they are
ALIKE = {"scale": 1.0}  # so that the learning rate is that of the matrices, and the factor means what it means for all
BF16 = "bfloat16"

KNOWN = {
    "adamw": Method("AdamW", 1e-3, "adamw"),
    "frugal": frugal("signsgd", 0.25),
    "frugal-0-whiten": frugal("whiten", 0.0),
    "frugal-whiten": frugal("whiten", 0.25),
    "frugal-sinkhorn": frugal("sinkhorn", 0.25),
    "frugal-0-sinkhorn": frugal("sinkhorn", 0.0),
    "galore": Method("GaLore ρ=0.25", 1e-3, "galore", QUARTER | ALIKE),
    "badam": Method("BAdam, one layer of four", 1e-3, "badam", TRAINED),
    "adam_mini": Method("Adam-mini", 1e-3, "adam_mini"),
    "adalomo": Method("AdaLomo", 3e-2, "adalomo"),
    "frugal-0": frugal("signsgd", 0.0, 3e-4),
    "scale": Method("SCALE", 1e-3, "scale"),
    "swan": Method("SWAN", 1e-3, "swan"),
    "muon": Method("Muon", 3e-3, "muon"),
    "apollo": Method("APOLLO", 3e-3, "apollo"),
    "adafactor": Method("Adafactor, not scaled by weights", 1e-3, "adafactor", UNSCALED),
    "came": Method("CAME, bias corrected", 1e-4, "came", {"bias_correction": True}),
    "lion": Method("Lion", 1e-4, "lion"),
    "adamw-int8": Method("AdamW, 8-bit state", 1e-3, "adamw", {"codec": "int8"}),
    "adamw-split": Method(
        "AdamW, 7 bytes (bf16_split, companded8)", 1e-3, "adamw", {"store": "bf16_split", "codec": "companded8"}, BF16
    ),
    "adamw-stochastic": Method(
        "AdamW, 4 bytes (bf16_stochastic, int8)", 1e-3, "adamw", {"store": "bf16_stochastic", "codec": "int8"}, BF16
    ),
    "adafrugal": Method("AdaFRUGAL ρ=0.25 to 0.05, signSGD", 1e-3, "adafrugal", falls=True),
    "signsgd": Method("signSGD", 3e-4, "signsgd"),
    "adam_mini-whole": Method("Adam-mini, values in one block", 1e-3, "adam_mini", {"value_blocks": "whole"}),
    "apollo_mini": Method("APOLLO-Mini", 1e-3, "apollo_mini"),
    "qgalore": Method("Q-GaLore, fp32 weights", 1e-3, "qgalore", QUARTER | ALIKE),
    "sgd": Method("SGD with momentum", 1e-1, "sgd"),
    "lomo": Method("SGD (LOMO)", 3e-1, "lomo"),
}
DECISIVE = ("adamw", "frugal", "frugal-0-whiten", "frugal-whiten")
