"""Which rank does what for the sharded parameters of an optimizer."""

from collections.abc import Callable, Iterable

from torch import Tensor

from ...core.contracts import Draw
from ...execution.sharded.rows import rows_of
from ...execution.sharded.work_division import WHOLE, Share, way_of
from ...model.roles import codes_dtype
from ...policy.job import Job
from ..groups.tags import Tags

__all__ = ["shares"]

Sharded = tuple[dict, str, Tensor]  # a param group, the name of a parameter in it, the parameter


def shares(sharded: Iterable[Sharded], tags: Tags, job_of: Callable[[dict, str, Tensor], Job]) -> dict[str, Share]:
    """Return what this rank does for every sharded parameter, by name; whole ones go to the rank with the least.

    Args:
        sharded: all of them, in the same order on all ranks.
        tags: their treatments; remembers which rank owns what, so that it stays so when parameters are added.
        job_of: returns the update of a parameter in the window that it is in.

    Raises:
        HybridOptError: for what is not cut by rows.
    """
    found: dict[str, Share] = {}
    loads: dict[int, int] = {}
    for group, name, p in sharded:
        rows = rows_of(name, p)
        assert rows is not None
        store = tags.treatment(group).store_for(codes_dtype(p) or p.dtype)
        way = way_of(job_of(group, name, p), store, rows, Draw(group["seed"], name))
        if way == WHOLE:
            least = min(range(rows.ranks), key=lambda rank: loads.get(rank, 0))
            owner = tags.owners.setdefault(name, least)
            loads[owner] = loads.get(owner, 0) + p.numel()
            found[name] = Share(way, rows, owner)
        else:
            found[name] = Share(way, rows)
    return found
