"""Consecutive lines that share a number: ((blocks, lines of each), ...) in order, all of it `groups` times over."""

import torch
from torch import Tensor

from ...core.errors import HybridOptError, check_count

__all__ = ["Blocks", "check", "covered", "means", "spread", "total"]

Blocks = tuple[tuple[int, int], ...]


def check(owner: str, blocks: object) -> Blocks:
    """Return pairs of whole numbers as tuples; HybridOptError, naming `owner`, for anything else."""
    wrong = f"{owner}: blocks={blocks!r} is not allowed; give pairs (blocks, lines of each)"
    if not isinstance(blocks, tuple | list):
        raise HybridOptError(wrong)
    if not all(isinstance(b, tuple | list) and len(b) == 2 for b in blocks):
        raise HybridOptError(wrong)
    for number in (n for block in blocks for n in block):
        check_count(owner, "blocks", number, 1, 2**31)
    return tuple((count, lines) for count, lines in blocks)


def total(blocks: Blocks, groups: int) -> int:
    """Return how many blocks there are in all groups together."""
    return groups * sum(count for count, _ in blocks)


def covered(blocks: Blocks, groups: int) -> int:
    """Return how many lines all groups together have."""
    return groups * sum(count * lines for count, lines in blocks)


def means(x: Tensor, blocks: Blocks, groups: int) -> Tensor:
    """Return the mean of each block, [..., blocks].

    Args:
        x: a number for every line, [..., lines].
        blocks: of one group.
        groups: how many times over.
    """
    parts = x.unflatten(-1, (groups, -1)).split([count * lines for count, lines in blocks], -1)
    return torch.cat([p.unflatten(-1, b).mean(-1) for p, b in zip(parts, blocks, strict=True)], -1).flatten(-2)


def spread(x: Tensor, blocks: Blocks, groups: int) -> Tensor:
    """Return each block's number on all its lines, [..., lines].

    Args:
        x: a number for every block, [..., blocks].
        blocks: of one group.
        groups: how many times over.
    """
    parts = x.unflatten(-1, (groups, -1)).split([count for count, _ in blocks], -1)
    wide = [p.unsqueeze(-1).expand(*p.shape, n).flatten(-2) for p, (_, n) in zip(parts, blocks, strict=True)]
    return torch.cat(wide, -1).flatten(-2)
