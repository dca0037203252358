"""A checksum of a tensor, the same on every device."""

import torch
from torch import Tensor

from ..core.numerics.rounding import tables
from .fsdp import sharded_tensors
from .quantization.coded import plain

__all__ = ["PATTERN", "VERSION", "checksum", "checksum_room", "table_sizes"]

VERSION = 2
PATTERN = 1 << 12  # elements of a row
CHUNKS = {"cpu": 1 << 17}  # elements worked on at a time: they should stay in the cache
CHUNK = 1 << 22
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32}


def checksum(tensor: Tensor) -> int:
    """Return a number of 64 bits that depends on every bit of a tensor and its place; equal on every device.

    Of a sharded tensor it is that of the whole, and all ranks have to ask for it.

    It is the sum of all bits, as integers of at most 32 bits, each times a random number for its row of `PATTERN`
    elements and one for its place in the row, modulo 2^64. The random numbers are odd, so that no bits are lost, and
    random, so that a few small changes do not cancel out.
    """
    tensor = sharded_tensors.whole(tensor.detach())
    parts = plain("", tensor).values()
    bits = torch.cat([x.flatten().view(torch.uint8) for x in parts]) if len(parts) > 1 else tensor
    bits = bits.contiguous().flatten()
    bits = bits.view(BITS[bits.element_size()] if not bits.is_complex() else torch.int32)
    weights, rows = (_odd(size, bits.device) for size in table_sizes(len(bits)))
    rows = rows[PATTERN:]
    total, size = 0, CHUNKS.get(bits.device.type, CHUNK)
    for number, chunk in enumerate(bits.split(size)):
        whole = chunk[: len(chunk) // PATTERN * PATTERN].view(-1, PATTERN).to(torch.int64)
        rest = chunk[whole.numel() :].to(torch.int64)
        own = rows[number * (size // PATTERN) :]
        part = ((whole * weights).sum(-1) * own[: len(whole)]).sum()
        total += int(part) + (int((rest * weights[: len(rest)]).sum() * own[len(whole)]) if len(rest) else 0)
    return total % (1 << 64)


def checksum_room(count: int, device: str) -> int:
    """Return the bytes that a checksum of `count` integers of at most 32 bits takes for a moment, on such a device."""
    at_once = min(count, CHUNKS.get(device, CHUNK))
    return 8 * (sum(table_sizes(count)) + 2 * at_once)


def table_sizes(count: int) -> tuple[int, int]:
    """Return how many random numbers are asked for, in turn, to sum up `count` integers of at most 32 bits."""
    return PATTERN, PATTERN + 1 + count // PATTERN


def _odd(count: int, device: torch.device) -> Tensor:
    """Return int64 [count]: the first of one fixed series of random odd numbers of 64 bits."""
    upper, lower = (x[:count].to(torch.int64) for x in tables(count, device))
    return (upper << 32).bitwise_xor_(lower).bitwise_or_(1)
