"""Consecutive lines that share a number: ((blocks, lines of each), ...) in order, all of it `groups` times over."""

import torch
from torch import Tensor

from ...core.errors import HybridOptError, check_count

__all__ = ["Blocks", "check", "covered", "means", "spread", "total"]

Blocks = tuple[tuple[int, int], ...]


def check(owner: str, blocks: object) -> Blocks:
    """Pairs of whole numbers, as tuples; raises HybridOptError for anything else."""
    pairs = isinstance(blocks, tuple | list) and all(isinstance(b, tuple | list) and len(b) == 2 for b in blocks)
    if not pairs:
        raise HybridOptError(f"{owner}: blocks={blocks!r} is not allowed; give pairs (blocks, lines of each)")
    for number in (n for block in blocks for n in block):
        check_count(owner, "blocks", number, 1)
    return tuple(tuple(block) for block in blocks)


def total(blocks: Blocks, groups: int) -> int:
    """How many blocks there are."""
    return groups * sum(count for count, _ in blocks)


def covered(blocks: Blocks, groups: int) -> int:
    """How many lines they have."""
    return groups * sum(count * lines for count, lines in blocks)


def means(x: Tensor, blocks: Blocks, groups: int) -> Tensor:
    """Mean of each block: [..., lines] to [..., blocks]."""
    parts = x.unflatten(-1, (groups, -1)).split([count * lines for count, lines in blocks], -1)
    return torch.cat([p.unflatten(-1, b).mean(-1) for p, b in zip(parts, blocks, strict=True)], -1).flatten(-2)


def spread(x: Tensor, blocks: Blocks, groups: int) -> Tensor:
    """Each block's number on all its lines: [..., blocks] to [..., lines]."""
    parts = x.unflatten(-1, (groups, -1)).split([count for count, _ in blocks], -1)
    wide = [p.unsqueeze(-1).expand(*p.shape, n).flatten(-2) for p, (_, n) in zip(parts, blocks, strict=True)]
    return torch.cat(wide, -1).flatten(-2)
