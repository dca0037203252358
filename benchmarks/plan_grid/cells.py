"""The cells of the grid: policies x adapters and bases x release x checkpointing, on CPU-sized models."""

import itertools
from typing import Any

from hybridopt.planning import Request

POLICIES: dict[str, dict[str, Any]] = {
    "adamw": {},
    "frugal": {"density": 0.25, "update_gap": 2},
    "galore": {"update_gap": 2},
    "adalomo": {},
    "signsgd": {},
    "adam_mini": {},
    "badam": {"update_gap": 2},
    "mezo": {},
}
BASES: dict[str, tuple[int | None, str | None]] = {
    "full": (None, None),
    "int8-trainable": (None, "int8-trainable"),
    "lora": (8, None),
    "lora+nf4": (8, "nf4"),
    "lora+int8": (8, "int8"),
}
SIZE: dict[str, Any] = {"seq_len": 64, "batch": 2, "device": "cpu"}
STEPS = {"badam": 14, "frugal": 3, "galore": 3}  # every layer has its turn; a second window


def cells(models: list[str]) -> dict[str, tuple[str, Request]]:
    """Return every cell, a model and what is asked of it, by name."""
    found = {}
    axes = (models, POLICIES, BASES, ("accumulate", "fused"), (False, True))
    for model, policy, base, release, checkpointing in itertools.product(*axes):
        lora, quantization = BASES[base]
        how = {"quantization": quantization, "release": release, "checkpointing": checkpointing}
        request = Request(policy=policy, options=POLICIES[policy], lora=lora, **how, **SIZE)
        found[f"{model} {policy} {base} {release}{' checkpointing' * checkpointing}"] = model, request
    return found
