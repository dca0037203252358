"""A policy in words: its options with defaults and meaning, and how it trains parameters of each role."""

import re
from dataclasses import MISSING, fields
from typing import Any

import torch

from ..core.contracts import USES, Rate
from ..core.errors import HybridOptError
from ..core.registry import find
from ..model.roles import Param
from .plan import Plan
from .routes import Ready, read_policy

__all__ = ["default", "described", "started_from"]

SHAPES = {"norm": (64,), "bias": (64,), "conv": (64, 64, 3, 3)}  # all others are matrices
PLACE = "where these parameters go: full, split, free or frozen"
SHARED = {
    "adam_eps": "added to the root of the second moment",
    "adapters": PLACE,
    "betas": "decay of the first and the second moment",
    "biases": PLACE,
    "clip": "largest slope; None: slopes are not clipped",
    "codec": "how state is kept: fp32, bf16, int8 or companded8",
    "density": "share that is trained at a time, 0 to 1",
    "embeddings": PLACE,
    "embeddings_lr_scale": "what the learning rate of embeddings and output layer is multiplied by",
    "eps": "added to the root of the second moment",
    "fo_lr": "learning rate of the first-order half, given with zo_lr in place of alpha",
    "full": "the rule of the state-full part",
    "gap_factor": "by what a window grows where the loss stalls",
    "head": PLACE,
    "heads": "attention heads; None: as the model says",
    "kv_heads": "heads of keys and values; None: as the model says",
    "longest_gap": "steps of the longest window",
    "lr_scale": "what the learning rate of the state-full part is multiplied by",
    "momentum": "decay of the momentum",
    "nesterov": "look ahead along the momentum",
    "norms": PLACE,
    "ns_steps": "Newton-Schulz iterations",
    "order": "in which blocks take turns",
    "rank": "of the projection",
    "relative_step": "a learning rate that follows from the number of the step",
    "reset": "forget the state at each choice",
    "rounds": "of bringing rows and columns to one size",
    "scale_parameter": "make the learning rate relative to each matrix",
    "store": "how weights are kept, such as bf16_split; None: as their dtype says",
    "update_gap": "steps between two choices",
    "zo_lr": "learning rate of the zeroth-order half, given with fo_lr in place of alpha",
}
ROLES = ("embedding", "head", "norm", "bias", "linear", "conv", "adapter")
SCALES, ENDS = "scales", ("embedding", "head")
LAYERS = ("layers.0", "layers.1", "layers.2", "layers.3")


def described(name: str) -> dict[str, Any]:
    """Return what a policy does, its options (name, default, meaning) and its tags by role, all from its own class.

    Raises:
        HybridOptError: for an unknown name, with the nearest ones.
    """
    kind = find("policies", name)
    summary, _, rest = (kind.__doc__ or "").strip().partition("\n")
    names = [field.name for field in fields(kind)]
    meanings, notes = _meanings(" ".join(rest.split()), names)
    options = [
        (field.name, default(field), meanings.get(field.name) or SHARED.get(field.name, "")) for field in fields(kind)
    ]
    told = {"options": options, "rates": started_from(name), "tags": _tags(name)}
    return {"name": name, "summary": summary, "notes": notes, **told}


def started_from(name: str) -> list[tuple[str, str, str]]:
    """Return the learning rates that a policy is started from by default: use, rate, and where it comes from."""
    rates = read_policy(name, {}).start_from
    return [(use, *_rate(None if rates is None else vars(rates)[use])) for use in USES]


def _rate(rate: Rate | None) -> tuple[str, str]:
    if rate is None:
        return "", "nothing is known"
    return f"{rate.value:g}", rate.source + (f", at width {rate.width}" if rate.width else "")


def default(field: Any) -> str:
    """Return the default of an option, a dataclass field, as text."""
    if field.default_factory is not MISSING:
        return repr(field.default_factory())
    return "(needed)" if field.default is MISSING else repr(field.default)


def _meanings(text: str, names: list[str]) -> tuple[dict[str, str], str]:
    """Return what a docstring says of each option ("one: ... two, three: ..."), and what it says before them."""
    option = "|".join(map(re.escape, names)) or "(?!)"
    found = list(re.finditer(rf"(?<![\w.])((?:{option})(?:, (?:{option}))*): ", text))
    ends = [*(match.start() for match in found[1:]), len(text)][: len(found)]
    meanings = {
        name: text[match.end() : end].strip()
        for match, end in zip(found, ends, strict=True)
        for name in match[1].split(", ")
    }
    return meanings, text[: found[0].start()].strip() if found else text


def _tags(name: str) -> dict[str, str]:
    """Return the tag of each role by default; those of scales only where they are trained."""
    policy = read_policy(name, {})
    try:
        tags = _resolved(policy, (*ROLES, SCALES))
    except HybridOptError:  # a policy that does not take scales
        tags = _resolved(policy, ROLES)
    return {role: tag for role, tag in tags.items() if role != SCALES or tag != "frozen"}


def _resolved(policy: Ready[Any], roles: tuple[str, ...]) -> dict[str, str]:
    """Return the tag of each role in a model of several layers."""
    params = [
        Param(f"model.{place}.{role}.weight", role, SHAPES.get(role, (64, 64)), torch.float32, True)
        for role in roles
        for place in (("ends",) if role in ENDS else LAYERS)
    ]
    return {entry.param.role: entry.tag for entry in Plan.of(params, policy).entries}
