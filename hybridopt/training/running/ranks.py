"""Several processes that carry out one run: the first prints and writes, and where one fails all of them end."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar

import torch
from torch import distributed

from ...core.collective_errors import meeting
from ...core.errors import HybridOptError
from ...core.launch_environment import World

__all__ = ["ALONE", "Ranks", "check_launcher", "joined"]

T = TypeVar("T")
FAILED = "failed"  # key of the rank whose error is shown; all ranks see it while they are alive
PATIENCE = timedelta(seconds=10)  # for the first rank's own error, which mostly is the same
LOST = ("gloo", "NCCL", "Connection closed by peer")  # in what torch says then
RUNS = count()  # of this process, alike on all ranks, so that one does not see how another has ended
OTHER = 1  # status of a rank that says nothing, as another one does


class Ranks:
    """The processes of a run; a single one need not meet anybody.

    Args:
        world: how many there are, and which of them this is.
        store: of torch, that all of them reach; None: there is only one.
    """

    def __init__(self, world: World, store: Any = None):
        self.world, self._store = world, store

    @property
    def leads(self) -> bool:
        """Return whether this process prints and writes."""
        return self.world.leads

    def from_first(self, work: Callable[[], T]) -> T:
        """Return on all ranks what `work` returns on the first, where alone it is called; it has to be picklable.

        Raises:
            SystemExit: on the other ranks, if `work` raises on the first.
        """
        if self.world.size == 1:
            return work()
        if not self.leads:
            good, found = self._said(None)
            if not good:
                raise SystemExit(OTHER)
            return found
        try:
            mine = work()
        except Exception:
            self._said((False, None))
            raise
        self._said((True, mine))
        return mine

    def meet(self) -> None:
        """Wait for all ranks."""
        if self.world.size > 1:
            with meeting("go on together"):
                distributed.barrier()

    def any(self, mine: bool) -> bool:
        """Return whether any rank says so; all have to ask."""
        if self.world.size == 1:
            return mine
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        flag = torch.tensor([mine], dtype=torch.int32, device=device)
        with meeting("hear whether one is to stop"):
            distributed.all_reduce(flag, distributed.ReduceOp.MAX)
        return bool(flag)

    def told(self, error: Exception) -> Exception | None:
        """Return the error that this rank shows for one that it has raised; None if another rank shows its own.

        The first rank's comes before those of others, as what is wrong is mostly wrong on all of them.
        """
        if self._store is None:
            return error
        try:
            if not self.leads:
                with suppress(RuntimeError):  # nobody else has failed in time
                    self._store.wait([FAILED], PATIENCE)
            shows = int(self._store.compare_set(FAILED, "", str(self.world.rank)))
        except (RuntimeError, ValueError):  # the rank that keeps the store has gone
            return error if self.leads else None
        if shows != self.world.rank:
            return None
        error = _in_words(error)
        known = isinstance(error, HybridOptError)
        return HybridOptError(f"rank {self.world.rank}: {error}") if known and not self.leads else error

    def _said(self, words: tuple[bool, Any] | None) -> tuple[bool, Any]:
        """Return on every rank what the first has said."""
        said: list[Any] = [words]
        with meeting("hear what the first has chosen"):
            distributed.broadcast_object_list(said, 0)
        return said[0] or (False, None)


ALONE = Ranks(World())


def check_launcher(told: Mapping[str, str]) -> None:
    """Raise HybridOptError where `accelerate launch` says that accelerate is to shard, too.

    told: the environment.
    """
    if told.get("ACCELERATE_USE_FSDP", "").lower() in ("true", "1"):
        raise HybridOptError(
            "accelerate launch --use_fsdp (or ACCELERATE_USE_FSDP in the environment) shards by its own settings; "
            "leave it out, and give --set parallel=fsdp"
        )


@contextmanager
def joined(world: World) -> Iterator[Ranks]:
    """Let the processes of a launcher meet within; one alone has nobody to meet.

    An error of any rank ends all of them: it is shown once, the others end with status 1 and say nothing.

    world: as the launcher tells it.
    """
    if world.size == 1:
        yield ALONE
        return
    ranks = _started(world)
    try:
        yield ranks
    except Exception as error:
        found = ranks.told(error)
        _part()
        if found is None:
            raise SystemExit(OTHER) from None
        raise found from (None if found is error else error)
    except BaseException:  # the first rank has said what is wrong, or this one is interrupted
        _part()
        raise
    distributed.destroy_process_group()


def _part() -> None:
    """Leave the other ranks after an error, by which those that wait are told; NCCL might wait for them itself."""
    if not torch.cuda.is_available():
        distributed.destroy_process_group()


def _started(world: World) -> Ranks:
    backend = None
    if torch.cuda.is_available():
        torch.cuda.set_device(world.local)
        backend = "cpu:gloo,cuda:nccl"
    common, rank, size = next(distributed.rendezvous("env://"))
    store = distributed.PrefixStore(f"hybridopt/{next(RUNS)}", common)
    distributed.init_process_group(backend or "gloo", store=store, rank=rank, world_size=size)
    return Ranks(world, store)


def _in_words(error: Exception) -> Exception:
    """Return an error in words where torch says that another process has gone."""
    lost = isinstance(error, distributed.DistError) or any(words in str(error) for words in LOST)
    if not lost or isinstance(error, HybridOptError):
        return error
    return HybridOptError(
        "another process of this run has stopped, was killed (for want of memory, perhaps), or takes longer than "
        f"torch waits; look at what it says, and start all of them again, with --resume ({str(error)[:200]})"
    )
