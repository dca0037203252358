"""Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): random bits from a counter.

Whole numbers only, so that the bits are the same on every device, under every compiler. NOISE.md is the specification.
"""

from typing import Any

import torch
from torch import Tensor

from .host import put

__all__ = ["fill_", "words", "words_of_many"]

ROUNDS = 10
MASK = (1 << 32) - 1
MULTIPLY = (0xD2511F53 - (1 << 32), 0xCD9E8D57 - (1 << 32))  # less 2**32, so that no product leaves 64 bits
WEYL = (0x9E3779B9, 0xBB67AE85)
Whole = Any  # an int, an int64 tensor or NumPy array: what has + * & ^ >>


def words(key: int, first: int, count: int, step: int, index: int, device: torch.device) -> Tensor:
    """Return the four words of blocks first, first + 1, ...: int32 [count, 4].

    The counter is (block low, block high, step, index).

    Args:
        key: 64 bits.
        first: number of the first block, 64 bits.
        count: blocks.
        step: 32 bits.
        index: 32 bits.
        device: where the words are made.
    """
    out = torch.empty(count, 4, dtype=torch.int32, device=device)
    block: Whole = torch.arange(first, first + count, device=device)
    columns: Whole = out
    if device.type == "cpu":  # NumPy's calls cost a third of torch's
        block, columns = block.numpy(), out.numpy()
    counter = (block & MASK, block >> 32, step, index)
    for i, word in enumerate(_philox(counter, (key & MASK, key >> 32))):
        columns[:, i] = word
    return out


def words_of_many(
    keys: list[int], counts: list[int], steps: list[tuple[int, int]], device: torch.device
) -> list[Tensor]:
    """Return for every key the words of its blocks 0, ..., count - 1, as `words` does, in one go: int32 [count, 4].

    Args:
        keys: 64 bits each.
        counts: blocks of every key.
        steps: (step, index) of every key.
        device: where the words are made.
    """
    told = [counts, [key & MASK for key in keys], [key >> 32 for key in keys], *zip(*steps, strict=True)]
    sizes, left, right, step, index = put(told, torch.int64, device)
    own = torch.repeat_interleave(sizes, output_size=sum(counts))  # told its size, nobody has to wait for the device
    block = torch.arange(len(own), device=device) - (sizes.cumsum(0) - sizes)[own]
    out = torch.empty(len(block), 4, dtype=torch.int32, device=device)
    counter = (block, torch.zeros_like(block), step[own], index[own])
    for i, word in enumerate(_philox(counter, (left[own], right[own]))):
        out[:, i] = word.to(torch.int32)
    return list(out.split(counts))


def fill_(out: Tensor, numbers: Tensor, first: Tensor) -> None:
    """Write to `out` what `words` returns; to be compiled.

    Args:
        out: int32 [count, 4].
        numbers: lower and upper half of the key, step and index: int64 [4].
        first: number of the first block: int64 [].
    """
    low, high, step, index = numbers.unbind()
    block = torch.arange(out.shape[0], device=out.device) + first
    counter = (block & MASK, block >> 32, step.expand_as(block), index.expand_as(block))
    for i, word in enumerate(_philox(counter, (low, high))):
        out[:, i] = word.to(torch.int32)


def _philox(counter: tuple[Whole, ...], key: tuple[Whole, Whole]) -> tuple[Whole, Whole, Whole, Whole]:
    """Return four words, whole numbers whose lower 32 bits count; ints, int64 tensors and NumPy arrays alike."""
    (a, b, c, d), (left, right) = counter, key
    for _ in range(ROUNDS):
        (a, b), (c, d) = _half(c, MULTIPLY[1], b, left), _half(a, MULTIPLY[0], d, right)
        left, right = left + WEYL[0] & MASK, right + WEYL[1] & MASK
    return a, b, c, d


def _half(word: Whole, multiplier: int, other: Whole, key: Whole) -> tuple[Whole, Whole]:
    """Return the upper half of a product, mixed with another word and the key, and the lower half.

    word in [0, 2**32); of the others, only the lower 32 bits count.
    """
    product = word * multiplier
    upper = product >> 32
    upper += word  # the 2**32 that the multiplier lacks
    upper ^= other
    upper ^= key
    upper &= MASK
    return upper, product
