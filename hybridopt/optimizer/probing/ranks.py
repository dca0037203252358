"""Losses of all ranks: the only thing that they must exchange, as all know the same directions."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from torch import distributed

from ...core.errors import HybridOptError
from ...core.peers import Peers

__all__ = ["Exchanged", "exchange", "telling"]

WHAT = "exchange losses"
CURE = "Call probe(), or step(closure), equally often on all ranks"


@dataclass(frozen=True)
class Exchanged:
    """The losses of all ranks.

    Args:
        losses: the mean of each over all ranks, which DistributedDataParallel and FSDP2 take of gradients, too.
        unused: has no rank used any parameter?
        by_rank: (rank, its losses); nothing where there is but one process.
    """

    losses: list[float]
    unused: bool
    by_rank: tuple[tuple[int, list[float]], ...] = ()

    def culprit(self, place: int) -> str:
        """Return which rank's loss is not finite, for an error; nothing where there is but one process.

        place: of the loss, among those of a step.
        """
        bad = [rank for rank, losses in self.by_rank if not math.isfinite(losses[place])]
        return f" on rank {', '.join(map(str, bad))} of {len(self.by_rank)}" if bad else ""


@contextmanager
def telling(peers: Peers | None, step: int, count: int, sharded: bool) -> Iterator[None]:
    """Let the others know at once if this rank fails to work out its losses, so that they do not wait for them.

    With shards they wait elsewhere, for weights, and hear of it when the connection breaks or their patience ends.

    Args:
        peers: the ranks that exchange losses; None: there are no others.
        step: that this rank is in.
        count: how many losses the others will send.
        sharded: are weights gathered from several ranks?
    """
    try:
        yield
    except Exception:
        if peers is not None and not sharded:
            with suppress(HybridOptError):
                _send(peers, True, step, True, [math.nan] * count)
        raise


def exchange(peers: Peers | None, step: int, unused: bool, losses: Sequence[float]) -> Exchanged:
    """Average losses over all ranks, so that they take the same step; one collective of 8 bytes a loss, and 32 more.

    Every rank gets the same bits. Raises HybridOptError on all ranks if one has failed, or is in another step.

    Args:
        peers: the ranks that exchange losses; None: there are no others.
        step: that this rank is in.
        unused: has no evaluation used any parameter?
        losses: of this rank.
    """
    if peers is None:
        return Exchanged(list(losses), unused)
    rows = _send(peers, False, step, unused, losses)
    if failed := next((row for row in rows if row[1]), None):
        raise HybridOptError(
            f"rank {int(failed[0])} has failed while it worked out its losses of step {int(failed[2])}, so that no "
            "rank can go on; nothing was changed. Look at the error of that rank"
        )
    first = rows[0]
    if other := next((row for row in rows if row[2] != first[2]), None):
        raise HybridOptError(
            f"rank {int(first[0])} sends losses of step {int(first[2])}, and rank {int(other[0])} of step "
            f"{int(other[2])}; nothing was changed. {CURE}"
        )
    found = tuple((int(row[0]), row[4:]) for row in rows)
    sums = [sum(each) / len(found) for each in zip(*[own for _, own in found], strict=True)]
    return Exchanged(sums, all(row[3] for row in rows), found)


def _send(peers: Peers, failed: bool, step: int, unused: bool, losses: Sequence[float]) -> list[list[float]]:
    """Return (rank, failed, step, unused, losses) of all ranks, in their order."""
    mine = [float(distributed.get_rank()), float(failed), float(step), float(unused), *losses]
    return sorted(peers.numbers(mine, WHAT))
