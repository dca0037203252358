"""What ranks tell each other: sums, bytes, and that one of them has failed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from ...core.collective_errors import meeting
from .rows import RankRows

__all__ = ["add_", "exchange", "failures"]


def add_(x: Tensor, rows: RankRows) -> None:
    """Add up a tensor over the ranks that share rows, in place; all get the same bits."""
    with meeting("add up what rules find out of their rows"):
        near = x.to(rows.device)
        distributed.all_reduce(near, group=rows.group)
        if near is not x:
            x.copy_(near)


def exchange(parts: Sequence[Sequence[Tensor]], sizes: Sequence[int], rows: RankRows) -> list[Tensor]:
    """Send tensors to every rank and return the bytes that came from each, uint8 [size].

    Args:
        parts: for every rank what it gets, contiguous.
        sizes: for every rank how many bytes come from it.
        rows: says who the ranks are.
    """
    sent = [_bytes(some, rows.device) for some in parts]
    came = torch.empty(sum(sizes), dtype=torch.uint8, device=rows.device)
    with meeting("send and get rows of whole matrices"):
        lengths = [len(x) for x in sent]
        distributed.all_to_all_single(came, torch.cat(sent), list(sizes), lengths, group=rows.group)
    return list(came.split(list(sizes)))


def failures(mine: str | None, rows: RankRows) -> list[tuple[int, str]]:
    """Return the ranks that have failed, with what each says; all have to ask. `mine`: what this one says."""
    said: list[Any] = [None] * rows.ranks
    with meeting("say what went wrong"):
        distributed.all_gather_object(said, mine, group=rows.group)
    return [(distributed.get_global_rank(rows.group, i), str(text)) for i, text in enumerate(said) if text is not None]


def _bytes(tensors: Sequence[Tensor], device: str) -> Tensor:
    flat = [x.reshape(-1).contiguous().view(torch.uint8).to(device) for x in tensors if x.numel()]
    return torch.cat(flat) if flat else torch.empty(0, dtype=torch.uint8, device=device)
