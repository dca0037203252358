"""Losses of all ranks: the only thing that they must exchange, as all know the same directions."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from torch import distributed

from ...core.errors import HybridOptError
from ...core.rank_group import Peers

__all__ = ["Exchanged", "RankNews", "exchange", "telling"]

WHAT = "exchange losses"
CURE = "Call probe(), or step(closure), equally often on all ranks"


@dataclass(frozen=True)
class RankNews:
    """What a rank says beside its losses.

    Args:
        step: that it is in.
        unused: has no evaluation used any parameter?
        broken: do weights no longer follow from the log of the run?
    """

    step: int
    unused: bool
    broken: bool


@dataclass(frozen=True)
class Exchanged:
    """The losses of all ranks.

    Args:
        losses: the mean of each over all ranks, which DistributedDataParallel and FSDP2 take of gradients, too.
        unused: has no rank used any parameter?
        by_rank: (rank, its losses); nothing where there is but one process.
        breaks: is the log of the run broken on some ranks, and not on others?
    """

    losses: list[float]
    unused: bool
    by_rank: tuple[tuple[int, list[float]], ...] = ()
    breaks: bool = False

    def culprit(self, place: int) -> str:
        """Return which rank's loss is not finite, for an error; nothing where there is but one process.

        place: of the loss, among those of a step.
        """
        bad = [rank for rank, losses in self.by_rank if not math.isfinite(losses[place])]
        return f" on rank {', '.join(map(str, bad))} of {len(self.by_rank)}" if bad else ""


@contextmanager
def telling(peers: Peers | None, mine: RankNews, count: int, sharded: bool) -> Iterator[None]:
    """Let the others know at once if this rank fails to work out its losses, so that they do not wait for them.

    With shards they wait elsewhere, for weights, and hear of it when the connection breaks or their patience ends.

    Args:
        peers: the ranks that exchange losses; None: there are no others.
        mine: what this rank says beside them.
        count: how many losses the others will send.
        sharded: are weights gathered from several ranks?
    """
    try:
        yield
    except Exception:
        if peers is not None and not sharded:
            with suppress(HybridOptError):
                _send(peers, True, mine, [math.nan] * count)
        raise


def exchange(peers: Peers | None, mine: RankNews, losses: Sequence[float]) -> Exchanged:
    """Average losses over all ranks, so that they take the same step; one collective of 8 bytes a loss, and 40 more.

    Every rank gets the same bits. Raises HybridOptError on all ranks if one has failed, or is in another step.

    Args:
        peers: the ranks that exchange losses; None: there are no others.
        mine: what this rank says beside them.
        losses: of this rank.
    """
    if peers is None:
        return Exchanged(list(losses), mine.unused)
    rows = _send(peers, False, mine, losses)
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
    found = tuple((int(row[0]), row[5:]) for row in rows)
    sums = [sum(each) / len(found) for each in zip(*[own for _, own in found], strict=True)]
    breaks = len({row[4] for row in rows}) > 1
    return Exchanged(sums, all(row[3] for row in rows), found, breaks)


def _send(peers: Peers, failed: bool, mine: RankNews, losses: Sequence[float]) -> list[list[float]]:
    """Return (rank, failed, step, unused, broken, losses) of all ranks, in their order."""
    said = [distributed.get_rank(), failed, mine.step, mine.unused, mine.broken]
    return sorted(peers.numbers([*map(float, said), *losses], WHAT))
