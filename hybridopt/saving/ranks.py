"""Saving a sharded model: one rank writes, the others help it to see whole tensors, one at a time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed

from ..core.errors import HybridOptError
from ..core.rank_group import peers_of_mesh
from ..model.fsdp.sharded_tensors import as_cut, coded, is_sharded, whole

__all__ = ["Whole", "together"]

Whole = Callable[[Tensor], Tensor]  # a tensor, sharded or not, to the same in one piece
DONE, FAILED = "done", "failed"


def together(sharded: list[Tensor], write: Callable[[Whole], None]) -> None:
    """Let the first rank call `write` with a function that returns whole tensors, and the others wait until it has.

    At no time has any rank more than one of them whole. Without sharded tensors every process writes by itself.

    Args:
        sharded: all that may be asked for, in the same order on all ranks.
        write: called on one rank only.

    Raises:
        HybridOptError: on all ranks, if `write` raises on the first.
    """
    if not sharded:
        write(whole)
        return
    ranks = _Ranks(sharded)
    if ranks.leads:
        ranks.lead(write)
    else:
        ranks.follow()


class _Ranks:
    """The ranks that a model is sharded over; the first leads: it says which tensor to gather, or how it has ended."""

    def __init__(self, sharded: list[Tensor]):
        first: Any = sharded[0]
        mesh = first.device_mesh
        codes = [as_cut(own.codes, x) for x in sharded if (own := coded(x.detach())) is not None]
        self.sharded = [*sharded, *codes]  # of weights kept as codes these may be asked for alone
        self.places = {_shard(x): place for place, x in enumerate(self.sharded)}
        self.peers = peers_of_mesh(mesh)
        self.leader = int(mesh.mesh.flatten()[0])
        self.leads = distributed.get_rank() == self.leader

    def lead(self, write: Callable[[Whole], None]) -> None:
        try:
            write(self._gathered)
        except BaseException as error:
            self._say((FAILED, str(error)))
            raise
        self._say((DONE, None))

    def follow(self) -> None:
        while True:
            what, detail = self._say(None)
            if what == DONE:
                return
            if what == FAILED:
                raise HybridOptError(f"rank {self.leader}, which writes for all, could not save: {detail}")
            whole(self.sharded[detail])

    def _gathered(self, x: Tensor) -> Tensor:
        if not is_sharded(x):
            return x
        if not x.numel():
            return torch.empty(x.shape, dtype=x.dtype)
        self._say(("gather", self.places[_shard(x)]))
        return whole(x)

    def _say(self, words: tuple | None) -> tuple:
        """Return on every rank what the leader has said."""
        said: tuple | None = self.peers.told(words, "save")
        return said or (DONE, None)


def _shard(x: Any) -> tuple[int, bool]:
    """Return what this rank's shard of a tensor is known by, also when it was detached."""
    own = coded(x.detach())
    return (x.to_local() if own is None else own.codes).data_ptr(), own is None
