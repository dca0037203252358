"""What FSDP2 gathers together: the parameters of a layer, or those outside of all layers; and the bytes of each."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from ...core.contracts import Scheme
from ...core.errors import HybridOptError
from ...model.fsdp.sharded_tensors import cuts
from ...model.roles import Param
from ...policy.plan import Entry

__all__ = ["ROOT", "Unit", "Units", "bytes_of", "is_cut", "layer_of", "rows_here", "units_of"]

ROOT = -1  # number of the unit outside of all layers


@dataclass(frozen=True)
class Unit:
    """Bytes of the parameters that `fully_shard` gathers together, on each rank.

    Rows are shared evenly; where they do not come out even, all ranks have room for as many as the first.

    Args:
        shard: of the rows of a rank.
        whole: of all parameters, gathered.
        gradients: of the whole gradients, as the backward pass makes them.
        reduced: of a rank's rows of the gradients.
    """

    shard: int = 0
    whole: int = 0
    gradients: int = 0
    reduced: int = 0

    def __add__(self, other: "Unit") -> "Unit":
        return Unit(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class Units:
    """All units of a model, by the number of the layer; `ROOT` for what is outside.

    Args:
        ranks: that share each.
        path: name of the module that lists the layers; "" where there are none.
        each: the units.
    """

    ranks: int
    path: str
    each: Mapping[int, Unit]

    def __getitem__(self, number: int) -> Unit:
        return self.each.get(number, Unit())

    def inputs(self, number: int) -> int:
        """Return the bytes that a rank hands in where the gradients of a unit are added up: all rows, padded."""
        return self.ranks * self[number].reduced


def units_of(
    entries: Iterable[Entry], gradients: Mapping[str, int], path: str, ranks: int, scheme: Scheme | None = None
) -> Units:
    """Return the units of a model, each layer sharded by itself and the rest by the root.

    Args:
        entries: of all parameters.
        gradients: bytes by name of those that the backward pass serves.
        path: name of the module that lists the layers; "" where there are none.
        ranks: that share each.
        scheme: by which weights are quantized; None: none are.
    """
    found: dict[int, Unit] = {}
    for entry in entries:
        p = entry.param
        if not is_cut(p, scheme):
            continue
        shard = rows_here(p, ranks, 0) * _row(p) * p.dtype.itemsize
        if p.role == "quantized":
            shard = -(-bytes_of(p, scheme) // ranks)  # codes are cut between any two bytes
        trained = p.name in gradients
        unit = Unit(shard, ranks * shard, gradients.get(p.name, 0), shard if trained else 0)
        number = layer_of(p.name, path)
        found[number] = found.get(number, Unit()) + unit
    return Units(ranks, path, found)


def is_cut(p: Param, scheme: Scheme | None = None) -> bool:
    """Return whether a parameter is sharded: of quantized weights only matrices of schemes whose codes may be cut.

    Args:
        p: the parameter.
        scheme: by which weights are quantized; None: such weights stay whole.

    Raises:
        HybridOptError: it is kept as codes that are trained.
    """
    if p.codes is not None:
        raise HybridOptError(
            f"plan: parameter {p.name!r} is kept as codes of {p.codes}, of which no rows can be taken; take "
            "parallel='ddp', or train it in floats"
        )
    if p.role == "quantized":
        return scheme is not None and scheme.shards and len(p.shape) == 2
    return p.role != "scales" and p.dtype in (torch.float32, torch.bfloat16, torch.float16)


def bytes_of(p: Param, scheme: Scheme | None = None) -> int:
    """Return the bytes of a whole parameter that `is_cut`: of a quantized one those of its codes."""
    count = math.prod(p.shape)
    return -(-count * scheme.bits // 8) if scheme is not None and p.role == "quantized" else count * p.dtype.itemsize


def layer_of(name: str, path: str) -> int:
    """Return the number of the layer that a parameter is in; `ROOT` for those outside of all layers."""
    first = name.removeprefix(f"{path}.").partition(".")[0] if path and name.startswith(f"{path}.") else ""
    return int(first) if first.isdecimal() else ROOT


def rows_here(p: Param, ranks: int, rank: int) -> int:
    """Return how many rows of a parameter a rank has.

    Args:
        p: the whole parameter.
        ranks: how many share it.
        rank: which of them.
    """
    first, end = cuts(p.shape[0] if p.shape else 1, ranks)[rank]
    return end - first


def _row(p: Param) -> int:
    return math.prod(p.shape[1:])
