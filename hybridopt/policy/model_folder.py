"""What a model folder holds, as plain data, and how a policy would train it; no weight is read."""

import math
from pathlib import Path
from typing import Any

from ..model.loading.building import build, check_folder, read_model_config
from ..model.loading.matching import match
from ..model.loading.weight_files import stored
from ..model.roles import params
from .plan import Plan
from .routes import Ready, read_policy

__all__ = ["inspect_model"]


def inspect_model(path: Path, policy: str | Ready[Any] | None = None) -> dict[str, Any]:
    """Return the architecture of a model folder, its files, and parameters and bytes by role.

    Args:
        path: the folder.
        policy: whose tags and bytes of state are told, too, or its name; None: none.

    Raises:
        HybridOptError: for what is no whole model folder, and for weights that are quantized already.
    """
    import torch

    ready = None if policy is None else read_policy(policy, {})
    folder = check_folder(path)
    config, entries = read_model_config(folder), stored(folder)
    floats = [entry.dtype for entry in entries.values() if entry.dtype.is_floating_point]
    model = build(config, folder, None, floats[0] if floats else torch.float32)
    match(model, entries)
    sizes = [(math.prod(entry.shape), entry.dtype) for entry in entries.values()]
    found: dict[str, Any] = {
        "kind": "model folder",
        "path": str(folder),
        "architecture": type(model).__name__,
        "dtype": ", ".join(sorted({str(dtype).removeprefix("torch.") for _, dtype in sizes})),
        "tensors": len(entries),
        "parameters": sum(p.numel() for p in model.parameters()),
        "files": {file.name: file.stat().st_size for file in sorted({entry.file for entry in entries.values()})},
    }
    plan = None if ready is None else Plan.of(params(model), ready)
    named = {"policy": policy} if isinstance(policy, str) else {}
    return found | named | {"bytes": sum(n * d.itemsize for n, d in sizes), "roles": _roles(model, plan)}


def _roles(model: Any, plan: Plan | None) -> list[dict[str, Any]]:
    """Return a row for every role, and with a plan for every tag and role."""
    kinds: dict[tuple[str | None, str], list[Any]] = {}
    for param in params(model):
        kinds.setdefault((None if plan is None else plan.tags[param.name], param.role), []).append(param)
    return [_row(tag, role, own, plan) for (tag, role), own in sorted(kinds.items(), key=lambda each: str(each[0]))]


def _row(tag: str | None, role: str, own: list[Any], plan: Plan | None) -> dict[str, Any]:
    sizes = [(math.prod(param.shape), param.dtype.itemsize) for param in own]
    row = {"role": role, "tensors": len(own), "parameters": sum(n for n, _ in sizes)}
    row["bytes"] = sum(n * width for n, width in sizes)
    if plan is None:
        return row
    return {"tag": tag, **row, "state bytes": plan.largest([param.name for param in own])}
