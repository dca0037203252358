"""Whether all ranks of a sharded run train the same in the same way; found out before they meet for an update."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, distributed

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
            _compare(self._facts(parameters), shares[0].rows.mesh)
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


def _compare(mine: Facts, mesh: Any) -> None:
    """Compare facts by a number first, as all are the same in nearly every run."""
    number = torch.tensor([stream(json.dumps(mine, sort_keys=True))], dtype=torch.int64, device=mesh.device_type)
    with meeting("compare what they train"):
        numbers = _numbers(number, mesh)
    if len(set(numbers)) == 1:
        return
    with meeting("say what they train"):
        (a, first), *others = sorted(_said((distributed.get_rank(), dict(mine)), mesh), key=lambda each: each[0])
    for b, other in others:
        for key in (k for k in [*first, *other] if first.get(k) != other.get(k)):
            raise HybridOptError(
                f"ranks do not train the same: {key} is {first.get(key, 'missing')} on rank {a} and "
                f"{other.get(key, 'missing')} on rank {b}; nothing was changed. Give all ranks the same model, "
                "policy, options and seed, in the same versions"
            )


def _groups(mesh: Any) -> list[Any]:
    """Return the groups by which all ranks of a mesh hear of each other, one after the other; of no other ranks."""
    return [mesh.get_group(axis) for axis in range(mesh.ndim)]


def _numbers(number: Tensor, mesh: Any) -> list[int]:
    for group in _groups(mesh):
        parts = [torch.empty_like(number) for _ in range(distributed.get_world_size(group))]
        distributed.all_gather(parts, number, group=group)
        number = torch.cat(parts)
    return [int(x) for x in number]


def _said(mine: tuple[int, Facts], mesh: Any) -> list[tuple[int, Facts]]:
    """Return what every rank of a mesh says, with the rank."""
    said = [mine]
    for group in _groups(mesh):
        parts: list[Any] = [None] * distributed.get_world_size(group)
        distributed.all_gather_object(parts, said, group=group)
        said = [each for part in parts for each in part]
    return said
