"""The ranks that train one model together, and what they tell each other."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from .collective_errors import meeting

__all__ = ["Peers", "peers_of_group", "peers_of_mesh"]


@dataclass(frozen=True)
class Peers:
    """Ranks that hear of each other through process groups, one after the other.

    Args:
        groups: torch's process groups, one for every dimension of a mesh; None is that of all processes.
        device: on which numbers are sent.
    """

    groups: tuple[Any, ...]
    device: torch.device

    def numbers(self, mine: list[float], what: str) -> list[list[float]]:
        """Return the numbers of every rank, float64, in the same order on all ranks; all have to give as many.

        Args:
            mine: of this rank.
            what: what the ranks meet for, as an error says it.
        """
        rows: list[list[float]] = self._gathered(torch.tensor([mine], dtype=torch.float64), what).tolist()
        return rows

    def alike(self, number: int, what: str) -> bool:
        """Return whether all ranks have the same number of 63 bits; arguments as of `numbers`."""
        return len(set(self._gathered(torch.tensor([number]), what).tolist())) == 1

    def said(self, mine: object, what: str) -> list[tuple[int, Any]]:
        """Return what every rank says, with the rank; arguments as of `numbers`."""
        said: list[tuple[int, Any]] = [(distributed.get_rank(), mine)]
        with meeting(what):
            for group in self.groups:
                parts: list[Any] = [None] * distributed.get_world_size(group)
                distributed.all_gather_object(parts, said, group=group)
                said = [each for part in parts for each in part]
        return sorted(said, key=lambda each: each[0])

    def told(self, mine: Any, what: str) -> Any:
        """Return on every rank what the first one says; arguments as of `numbers`."""
        said = [mine]
        with meeting(what):
            for group in self.groups:
                distributed.broadcast_object_list(said, group=group, group_src=0)
        return said[0]

    def _gathered(self, mine: Tensor, what: str) -> Tensor:
        """Return the tensors of all ranks, one after the other along their first dimension."""
        found = mine.to(self.device)
        with meeting(what):
            for group in self.groups:
                parts = [torch.empty_like(found) for _ in range(distributed.get_world_size(group))]
                distributed.all_gather(parts, found, group=group)
                found = torch.cat(parts)
        return found


def peers_of_mesh(mesh: Any) -> Peers:
    """Return the ranks of torch's DeviceMesh."""
    return Peers(tuple(mesh.get_group(axis) for axis in range(mesh.ndim)), torch.device(mesh.device_type))


def peers_of_group(group: Any, device: torch.device) -> Peers | None:
    """Return the processes of a group; None where there is but this one.

    Args:
        group: torch's process group; None: all processes.
        device: of the parameters, on which NCCL sends; others send from the CPU.
    """
    there = distributed.is_available() and distributed.is_initialized()
    if not there or distributed.get_world_size(group) == 1:
        return None
    return Peers((group,), device if "nccl" in str(distributed.get_backend(group)) else torch.device("cpu"))
