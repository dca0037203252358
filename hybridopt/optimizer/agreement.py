"""Whether all ranks of a sharded run train the same in the same way; found out before they meet for an update."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import distributed

from ..core.contracts import stream
from ..core.errors import HybridOptError
from ..core.meeting import meeting
from .parameters import Parameters

__all__ = ["Agreement"]

Facts = Mapping[str, str]
NUMBERS = ("lr", "weight_decay", "seed", "step")


class Agreement:
    """Compares what ranks are about to do, once for every set of param groups, in their first step.

    Args:
        options: of the optimizer, by name: what all ranks must have in common.
    """

    def __init__(self, options: Mapping[str, object]):
        self._options = {name: repr(value) for name, value in options.items()}
        self._seen: Parameters | None = None

    def check(self, parameters: Parameters) -> None:
        """Raise HybridOptError on all ranks if any two differ, naming ranks and what differs; without shards, nothing.

        parameters: of the optimizer.
        """
        if self._seen is parameters:
            return
        shares = [one.share for one in parameters.windows.all() if one.share is not None]
        if shares:
            rows = shares[0].rows
            group = rows.mesh.get_group() if rows.mesh.ndim == 1 else distributed.group.WORLD
            _compare(self._facts(parameters), group, rows.device)
        self._seen = parameters

    def _facts(self, parameters: Parameters) -> Facts:
        facts = {f"{name}'s version": version(name) for name in ("hybridopt", "torch")} | self._options
        for one in parameters.windows.all():
            p, where = one.p, f"parameter {one.name!r}"
            facts |= {f"{key} of {where}": f"{one.group[key]}" for key in NUMBERS}
            facts[f"shape and dtype of {where}"] = f"{tuple(p.shape)} {p.dtype}"
            facts[f"placement of {where}"] = "not sharded" if one.share is None else f"{one.share.rows.placements}"
            facts[f"treatment of {where}"] = one.group["treatment"]
        return facts


def _compare(mine: Facts, group: Any, device: str) -> None:
    """Compare facts by a number first, as all are the same in nearly every run."""
    number = torch.tensor([stream(json.dumps(mine, sort_keys=True))], dtype=torch.int64, device=device)
    ranks = distributed.get_world_size(group)
    with meeting("compare what they train"):
        numbers = [torch.empty_like(number) for _ in range(ranks)]
        distributed.all_gather(numbers, number, group=group)
    if len({int(x) for x in numbers}) == 1:
        return
    all_of: list[Any] = [None] * ranks
    with meeting("say what they train"):
        distributed.all_gather_object(all_of, dict(mine), group=group)
    first = all_of[0]
    for i, other in enumerate(all_of):
        for key in (k for k in [*first, *other] if first.get(k) != other.get(k)):
            a, b = (distributed.get_global_rank(group, x) for x in (0, i))
            raise HybridOptError(
                f"ranks do not train the same: {key} is {first.get(key, 'missing')} on rank {a} and "
                f"{other.get(key, 'missing')} on rank {b}; nothing was changed. Give all ranks the same model, "
                "policy, options and seed, in the same versions"
            )
