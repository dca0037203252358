"""The processes that train one model together: those of its shards, of its DDP, those that a user names, or all."""

from typing import Any

from torch import distributed

from ..core.errors import HybridOptError
from ..core.rank_group import Peers, peers_of_group, peers_of_mesh
from ..model.placement.homes import device_of
from .parameters import Parameters

__all__ = ["TrainingRanks"]


class TrainingRanks:
    """Knows the process group that a user has named, if any; copies of an optimizer share it, pickles forget it.

    Args:
        group: torch's process group; None: shards or DDP tell, or else it is all processes.

    Raises:
        HybridOptError: this process is none of the group.
    """

    def __init__(self, group: Any = None):
        if group is not None and distributed.get_rank(group) < 0:
            raise HybridOptError(
                f"process_group has no place for this process, rank {distributed.get_rank()}: make the optimizer on "
                "the ranks of the group alone, and give each its own"
            )
        self._group = group

    def __deepcopy__(self, memo: dict) -> "TrainingRanks":
        return self

    def __reduce__(self) -> tuple:
        return TrainingRanks, ()

    def peers(self, parameters: Parameters, ddp: Any, asked: bool) -> Peers | None:
        """Return the ranks that train the same, and exchange losses; None: there are no others.

        Args:
            parameters: of the optimizer.
            ddp: the DistributedDataParallel that they lie in, if any.
            asked: do all processes count where neither shards, DDP nor the user tell? So it is with losses.

        Raises:
            HybridOptError: the group that was named lacks ranks that have shards, or replicas in DDP.
        """
        everything = parameters.windows.all()
        share = next((one.share for one in everything if one.share is not None), None)
        device = device_of(everything[0].p) if ddp is None else ddp.device
        if self._group is not None:
            own = [] if share is None else share.rows.mesh.mesh.flatten().tolist()
            self._check(own if ddp is None else distributed.get_process_group_ranks(ddp.process_group))
            return peers_of_group(self._group, device)
        if share is not None:
            return peers_of_mesh(share.rows.mesh)
        return peers_of_group(None if ddp is None else ddp.process_group, device) if ddp is not None or asked else None

    def _check(self, ranks: list[int]) -> None:
        told = distributed.get_process_group_ranks(self._group)
        if missing := sorted(set(ranks).difference(told)):
            raise HybridOptError(
                f"process_group has ranks {told}, and the model is trained on rank {missing[0]}, too (fully_shard or "
                "DistributedDataParallel): name all that train it, or leave process_group out"
            )
