"""The processes that a launcher (torchrun, accelerate launch) has started together, as it tells each of them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import HybridOptError

__all__ = ["World", "launched", "world"]

TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # what torchrun sets
BY_ACCELERATE = "ACCELERATE_DYNAMO_USE_DYNAMIC"  # what `accelerate launch` always sets, and nothing else does


@dataclass(frozen=True)
class World:
    """How many processes train together, and which of them this one is.

    Args:
        rank: number of this process, from 0.
        size: how many there are.
        local: number of this process on its machine, from 0; its GPU has the same.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        """Return whether this is the process that prints and writes for all."""
        return self.rank == 0


def world(told: Mapping[str, str] | None = None) -> World:
    """Return the processes that were started together; World() where there is only this one.

    told: the environment; None: this process's own.

    Raises:
        HybridOptError: a value is no number, or the rank is none of theirs.
    """
    told = os.environ if told is None else told
    if "WORLD_SIZE" not in told or "RANK" not in told:
        return World()
    rank, size, local = (_number(name, told.get(name, "0")) for name in TOLD)
    if size <= 1:
        return World()
    if rank >= size:
        raise HybridOptError(f"RANK={rank} is not allowed with WORLD_SIZE={size}; start processes by torchrun")
    return World(rank, size, local)


def launched(gpus: int = 2, told: Mapping[str, str] | None = None) -> str:
    """Return the beginning of a command that starts several processes of hybridopt, by what has started this one.

    Args:
        gpus: of this machine; where there are fewer than two, two processes are started.
        told: the environment; None: this process's own.
    """
    by_accelerate = BY_ACCELERATE in (os.environ if told is None else told)
    start = "accelerate launch --multi_gpu --num_processes" if by_accelerate else "torchrun --nproc-per-node"
    return f"{start} {max(2, gpus)} -m hybridopt"


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise HybridOptError(f"{name}={text!r} in the environment is no number; unset it, or start by torchrun")
    return int(text)
