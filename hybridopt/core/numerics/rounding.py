"""Stochastic rounding from a counter hash: no generator, no state, the same bits on every device."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import HybridOptError
from .host import on_host

__all__ = ["Seed", "Seeding", "as_seed", "hashed_rows", "random_bits", "stochastic_bf16", "stochastic_round"]
__all__ += ["made_tables", "table_bytes", "tables"]

GOLDEN = 0x9E3779B9
STEP = 0.625 / 128  # of a bfloat16: rounds to its neighbour, wherever between two powers of two it lies
_tables: dict[torch.device, tuple[Tensor, Tensor]] = {}


@dataclass(frozen=True)
class Seed:
    """Where random bits come from: a key and a row.

    Args:
        key: 63 bits, or an int64 tensor: of shape [], or of shape [n] for a stack of n tensors, one each.
        row: where a slice begins in its whole, an int or an int32 tensor [].
        tables: hashes of its rows with the key (`hashed_rows`), and of columns, for compiled code of a CPU, which
            cannot look them up and would work them out for every element.
    """

    key: int | Tensor
    row: int | Tensor = 0
    tables: tuple[Tensor, Tensor] | None = None


Seeding = Seed | int | Tensor | None  # a seed, or its key alone; None where nothing is rounded at random


def random_bits(like: Tensor, seed: Seeding) -> Tensor:
    """Return sixteen random bits for every element of `like`: int32 in [0, 65536), shape of `like`.

    A pure function of (key, row, column): hashes of row and column, joined and mixed once more.
    """
    seed = as_seed(seed)
    stacked = isinstance(seed.key, Tensor) and seed.key.ndim > 0
    shape = like.shape[1:] if stacked else like.shape
    rows, width = shape[:-1].numel(), shape[-1] if shape else 1
    of_columns = seed.tables[1] if seed.tables else tables(width, like.device)[1]
    of_rows = seed.tables[0][:rows] if seed.tables else hashed_rows(seed.key, seed.row, rows, like.device)
    of_rows = of_rows.view(*of_rows.shape[:-1], *shape[:-1], 1) if shape else of_rows[..., 0]
    x = ((of_columns[:width] if shape else of_columns[0]) ^ of_rows) * -2048144789
    return ((x >> 15 & 0x1FFFF) ^ x) * -1028477387 >> 16 & 0xFFFF


def stochastic_bf16(x: Tensor, seed: Seeding) -> Tensor:
    """Round float32 to bfloat16, up or down with the probability that keeps the mean; NaN and infinity stay."""
    x = x.float()
    bits = random_bits(x, seed)
    return (_by_comparing if x.device.type == "cpu" else _by_adding)(x, bits).to(torch.bfloat16)


def as_seed(seed: Seeding) -> Seed:
    """Return a seed as a `Seed`; HybridOptError for None, as nothing can be rounded at random without."""
    if seed is None:
        raise HybridOptError("rounding at random needs a seed, got None; give a Seed, or its key")
    return seed if isinstance(seed, Seed) else Seed(seed)


def _by_adding(x: Tensor, bits: Tensor) -> Tensor:
    """Add random bits below the last one that stays, and cut."""
    added = x.view(torch.int32).add(bits).bitwise_and(-65536)
    return torch.where(x.isfinite(), added.view(torch.float32), x)


def _by_comparing(x: Tensor, bits: Tensor) -> Tensor:
    """Do as `_by_adding` without reading floats as integers, which no compiled loop on a CPU does at speed.

    The two differ below 1e-30 and from 1e30 on, where this one rounds to nearest.
    """
    near = _eight_bits(x)
    off = x - near
    other = _eight_bits(near + near.abs() * off.sign() * STEP)
    gap, down = (other - near).abs(), bits * 2**-16
    outward = (off >= 0) == (x >= 0)
    takes_other = torch.where(outward, off.abs() >= (1 - down) * gap, off.abs() > down * gap)
    kept = (off == 0) | (x.abs() >= 1e30)  # what has eight bits already keeps even the sign of its zero
    return torch.where(kept, x, torch.where(takes_other, other, near))


def _eight_bits(x: Tensor) -> Tensor:
    """Round to the nearest number of eight bits (Veltkamp's splitting): casts to and fro would be optimized away."""
    big = x * 65537.0
    return big - (big - x)


def stochastic_round(x: Tensor, seed: Seeding) -> Tensor:
    """Round to a whole number, up or down with the probability that keeps the mean; float of the shape of `x`."""
    return torch.floor(x + random_bits(x, seed) * (1 / 65536))


def tables(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return hashes of at least `size` rows and of as many columns: int32; longer tables begin as shorter ones.

    Compiled code of accelerators works them out, which is cheaper there than to read them.
    """
    if not on_host(device) and torch.compiler.is_compiling():
        return _hashes(size, device)
    found = _tables.get(device)
    if found is None or len(found[0]) < size:
        found = _tables[device] = _hashes(_length(size), device)
    return found


def made_tables() -> list[Tensor]:
    """Return the tables that there are now, of all devices."""
    return [x for pair in _tables.values() for x in pair]


def table_bytes(sizes: Iterable[int]) -> int:
    """Return the bytes of both tables of a device after they were asked for these sizes in turn."""
    length = 0
    for size in sizes:
        length = length if size <= length else _length(size)
    return 2 * 4 * length


def _length(size: int) -> int:
    return max(2 * size, 4096)


def _hashes(size: int, device: torch.device, first: int | Tensor = 0) -> tuple[Tensor, Tensor]:
    counter = torch.arange(size, dtype=torch.int32, device=device) + first
    rows, columns = (_mix(counter * _signed(GOLDEN) + salt, salt) for salt in (0x3C6EF372, 0x1B873593))
    return rows, columns


def hashed_rows(key: int | Tensor, first: int | Tensor, count: int, device: torch.device) -> Tensor:
    """Return hashes of rows with a key: int32 [count]; of n keys [n, count].

    Both halves of the key enter, the upper one between two rounds of mixing (the finaliser of MurmurHash3, Appleby,
    public domain, which wraps around), so that two keys never give shifted copies of one sequence.

    Args:
        key: 63 bits, or an int64 tensor of shape [] or [n].
        first: the first row; compiled code of accelerators may be told by an int32 tensor [].
        count: rows.
        device: where the hashes are made.
    """
    low, high = _halves(key)
    if isinstance(first, Tensor):
        return _mix(_hashes(count, device, first)[0] + low, high)
    return _mix(tables(first + count, device)[0][first : first + count] + low, high)


def _mix(x: Tensor, key: int | Tensor = 0) -> Tensor:
    x = ((x >> 16 & 0xFFFF) ^ x) * -2048144789 ^ key
    x = ((x >> 13 & 0x7FFFF) ^ x) * -1028477387
    return (x >> 16 & 0xFFFF) ^ x


def _halves(key: int | Tensor) -> tuple[int | Tensor, int | Tensor]:
    """Split a key into its lower and its upper half as int32; [n, 1] of n keys."""
    if not isinstance(key, Tensor):
        return _signed(key & 0xFFFFFFFF), _signed(key >> 32)
    key = key.view(-1, 1) if key.ndim else key
    low = key & 0xFFFFFFFF
    return (low - ((low & 1 << 31) << 1)).to(torch.int32), (key >> 32).to(torch.int32)


def _signed(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word
