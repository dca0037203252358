"""Which rows of a parameter lie on which rank."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from ...core.collective_errors import meeting
from ...core.contracts import Shape
from ...core.errors import HybridOptError
from ...model.fsdp.sharded_tensors import coded, cuts, is_sharded, local

__all__ = ["RankRows", "cut_as", "elements_before", "part_of", "rows_of"]


@dataclass(frozen=True)
class RankRows:
    """The first dimension of a parameter, cut for the ranks of a group as torch cuts it.

    Args:
        total: rows of the parameter; of a vector its elements.
        ranks: how many share them.
        rank: which of them this one is.
        mesh: torch's DeviceMesh.
        placements: of the parameter, one for every dimension of the mesh.
        along: the dimension of the mesh that the rows are cut along; None: every rank has all of them.
    """

    total: int
    ranks: int
    rank: int
    mesh: Any
    placements: tuple[Any, ...]
    along: int | None

    def cut(self, rank: int, total: int | None = None) -> tuple[int, int]:
        """Return the first row of a rank and the one after its last, of `total` rows or the parameter's own."""
        return cuts(self.total if total is None else total, self.ranks)[rank]

    @property
    def span(self) -> tuple[int, int]:
        """Return the first row of this rank and the one after its last."""
        return self.cut(self.rank)

    @property
    def count(self) -> int:
        """Return the rows of this rank."""
        first, end = self.span
        return end - first

    @cached_property
    def group(self) -> Any:
        """Return torch's process group of the ranks that share the rows."""
        return self.mesh.get_group(self.along or 0)

    @property
    def device(self) -> str:
        """Return the type of device on which the ranks meet."""
        kind: str = self.mesh.device_type
        return kind


def cut_as(p: Any, grad: Any) -> Any:
    """Return the gradient of a parameter, cut as it is; parts of a sum, as sequence parallelism leaves them, added up.

    All ranks that have a part of it have to come here.
    """
    if not is_sharded(grad) or grad.placements == p.placements:
        return grad
    with meeting("add up a gradient"):
        return grad.redistribute(p.device_mesh, p.placements)


def rows_of(name: str, p: Tensor) -> RankRows | None:
    """Return which rows of a parameter this rank holds; None for a plain tensor.

    Raises:
        HybridOptError: it is cut along another dimension than the first, or along two dimensions of the mesh.
    """
    if not is_sharded(p):
        return None
    data: Any = p
    placements, mesh = tuple(data.placements), data.device_mesh
    cut = [i for i, x in enumerate(placements) if not x.is_replicate()]
    if len(cut) > 1 or not all(placements[i].is_shard(0) for i in cut):
        raise HybridOptError(
            f"parameter {name!r} (shape {tuple(p.shape)}) is sharded as {placements}; only shards along dimension 0, "
            "over one dimension of the mesh, are updated. With fully_shard leave shard_placement_fn out; with tensor "
            "parallelism leave these layers whole, or let ColwiseParallel cut them, without fully_shard"
        )
    _check_plain(name, p)
    along = cut[0] if cut else None
    ranks, rank = (1, 0) if along is None else (mesh.size(along), mesh.get_local_rank(along))
    return RankRows(p.shape[0] if p.ndim else 1, ranks, rank, mesh, placements, along)


def _check_plain(name: str, p: Tensor) -> None:
    """Raise HybridOptError for shards that are no rows of numbers, nor of codes that are trained."""
    shard = local(p)
    if hasattr(shard, "__tensor_flatten__") and coded(p) is None:
        raise HybridOptError(
            f"parameter {name!r} (shape {tuple(p.shape)}) is sharded, and kept as {type(shard).__name__}, of which "
            "no rows can be taken: train it in floats, or frozen under adapters, or without fully_shard"
        )


def part_of(rows: RankRows, shape: Shape, rank: int) -> Shape:
    """Return the shape that a rank has of a tensor whose first dimension is cut as torch cuts it.

    Args:
        rows: of the parameter.
        shape: of the whole tensor.
        rank: of the group.
    """
    first, end = rows.cut(rank, shape[0])
    return (end - first, *shape[1:])


def elements_before(rows: RankRows, shape: Shape) -> int:
    """Return how many elements of a tensor of `shape` lie on ranks before this one."""
    return rows.span[0] * math.prod(shape[1:])
