"""Learning rates to start from, where a run says none."""

from collections.abc import Mapping
from typing import Any

from ...planning.ways.ways import WAYS
from ...policy.routes import read_policy

__all__ = ["first_rate"]

ADAMW, ADAMW_LORA = 1e-5, 1e-4
# By policy, for all weights and for LoRA: those of the papers, or what follows from the rule (docs/policies.md).
# Policies of which neither says anything get AdamW's.
RATES = {
    "adafactor": (1e-3, 1e-3),  # relative to each matrix
    "came": (0.7 * ADAMW, 0.7 * ADAMW_LORA),  # 0.5 to 0.9 times AdamW's
    "fzoo": (5e-5, 5e-5),
    "ip_sgd": (3e-2, 3e-2),  # the same update as LOMO
    "lezo": (1e-6, 1e-4),
    "lion": (ADAMW / 5, ADAMW_LORA / 5),  # 3 to 10 times less than AdamW's
    "lomo": (3e-2, 3e-2),
    "mezo": (1e-6, 1e-4),
    "qzo": (1e-7, 1e-7),
    "subzero": (1e-6, 1e-4),
    "zo_conservative": (1e-6, 1e-4),
    "zo_momentum": (1e-6, 1e-4),
}
SLOW_PART = 0.1  # free_lr_scale of FRUGAL's fine-tuning, with which rates are 3 to 10 times AdamW's


def first_rate(policy: str, options: Mapping[str, Any], has_adapters: bool) -> tuple[float, str]:
    """Return a learning rate to start from, and where it comes from, in words.

    Args:
        policy: a name, or the path of a JSON file.
        options: of the policy.
        has_adapters: are adapters trained, and not all weights?
    """
    own = read_policy(policy, dict(options)).lr
    if own is not None:
        return float(own), "as zo_lr and fo_lr of the policy say"
    name = policy.replace("-", "_")
    usual = ADAMW_LORA if has_adapters else ADAMW
    if name == "adafactor" and options.get("relative_step"):
        return 1.0, "as the paper's own step sizes want it"
    if name == "adafactor" and not options.get("scale_parameter", True):
        return usual, "AdamW's, as without scale_parameter"
    if name == "frugal" and options.get("free_lr_scale") == SLOW_PART:
        return 5 * usual, "3 to 10 times AdamW's, as free_lr_scale=0.1 wants it"
    if name in RATES:
        return RATES[name][has_adapters], f"where {name} starts from"
    ways = [way.lr for way in WAYS if way.policy == name and (way.lora is not None) == has_adapters]
    return (ways[0], f"where {name} starts from") if ways else (usual, f"AdamW's, as nothing is known of {name}")
